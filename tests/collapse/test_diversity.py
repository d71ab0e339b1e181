"""Figures of diversity against counting by hand."""

from __future__ import annotations

import math

import pytest

from factlife.collapse.diversity import (
    ENTROPY_WORDS,
    distinct_ngrams,
    diversity_metrics,
    self_bleu,
    vendi_score,
    word_entropy,
)


def test_entropy_of_equally_frequent_words_is_the_log_of_their_number():
    assert word_entropy("a b c d " * 4) == pytest.approx(math.log(4))
    assert word_entropy("a " * 16) == 0


def test_entropy_does_not_depend_on_what_comes_later():
    text = " ".join(f"w{number}" for number in range(ENTROPY_WORDS))

    assert word_entropy(text) == word_entropy(f"{text} and so on and so on") == pytest.approx(math.log(ENTROPY_WORDS))
    assert math.isnan(word_entropy(text.rsplit(" ", 1)[0]))


def test_distinct_counts_n_grams_within_texts():
    # Pairs: ab, bc | ab, ba.
    assert distinct_ngrams(["a b c", "a b a"], 2, n_words=6) == 3 / 4
    # The last word is beyond the first five: ab, bc | ab.
    assert distinct_ngrams(["a b c", "a b a"], 2, n_words=5) == 2 / 3
    assert distinct_ngrams(["a b c", "a b a"], 1, n_words=6) == 3 / 6
    assert math.isnan(distinct_ngrams(["a b c"], 2, n_words=4))


def test_repeated_texts_are_less_varied():
    varied, same = [f"this is text number {n} of ten" for n in range(10)], ["this is the text that all are"] * 10

    assert diversity_metrics(varied)["unique_fraction"] == 1
    assert diversity_metrics(same)["unique_fraction"] == 0.1
    for metric in ("distinct_1", "distinct_2", "distinct_4"):
        assert diversity_metrics(same)[metric] < diversity_metrics(varied)[metric]


def test_vendi_counts_texts_that_share_no_word():
    texts = ["a b c", "d e f", "g h i", "j k l"]

    assert vendi_score(texts) == pytest.approx(4)
    assert vendi_score(texts * 3) == pytest.approx(4)
    assert vendi_score(["a b c"] * 5) == pytest.approx(1)
    assert vendi_score(["", *texts, " "]) == pytest.approx(4)
    assert math.isnan(vendi_score([""]))


def test_vendi_of_two_texts_is_that_of_their_cosine():
    # Counts of a, b, (a b) and a, c, (a c) share one of three: the eigenvalues of K / 2 are (1 ± 1/3) / 2.
    shares = [2 / 3, 1 / 3]
    assert vendi_score(["a b", "a c"]) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_self_bleu_is_full_for_equal_texts_and_nothing_for_texts_without_a_common_word():
    assert self_bleu(["one and the same text of some length"] * 4) == pytest.approx(100)
    assert self_bleu(["a b c d e f", "g h i j k l"]) < 10
    assert math.isnan(self_bleu(["alone"]))
