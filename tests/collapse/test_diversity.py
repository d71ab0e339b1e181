"""Figures of diversity against counting by hand."""

from __future__ import annotations

import math

import pytest

from factlife.collapse.diversity import MATCHED_WORDS, distinct, entropy, of_texts, self_bleu, vendi


def test_entropy_of_equally_frequent_words_is_the_log_of_their_number():
    assert entropy("a b c d " * 4) == pytest.approx(math.log(4))
    assert entropy("a " * 16) == 0


def test_entropy_does_not_depend_on_what_comes_later():
    text = " ".join(f"w{number}" for number in range(MATCHED_WORDS))

    assert entropy(text) == entropy(f"{text} and so on and so on") == pytest.approx(math.log(MATCHED_WORDS))
    assert math.isnan(entropy(text.rsplit(" ", 1)[0]))


def test_distinct_counts_n_grams_within_texts():
    # Pairs: ab, bc | ab, ba.
    assert distinct(["a b c", "a b a"], 2, words=6) == 3 / 4
    # The last word is beyond the first five: ab, bc | ab.
    assert distinct(["a b c", "a b a"], 2, words=5) == 2 / 3
    assert distinct(["a b c", "a b a"], 1, words=6) == 3 / 6
    assert math.isnan(distinct(["a b c"], 2, words=4))


def test_repeated_texts_are_less_varied():
    varied, same = [f"this is text number {n} of ten" for n in range(10)], ["this is the text that all are"] * 10

    assert of_texts(varied)["unique"] == 1
    assert of_texts(same)["unique"] == 0.1
    for metric in ("distinct_1", "distinct_2", "distinct_4"):
        assert of_texts(same)[metric] < of_texts(varied)[metric]


def test_vendi_counts_texts_that_share_no_word():
    texts = ["a b c", "d e f", "g h i", "j k l"]

    assert vendi(texts) == pytest.approx(4)
    assert vendi(texts * 3) == pytest.approx(4)
    assert vendi(["a b c"] * 5) == pytest.approx(1)
    assert vendi(["", *texts, " "]) == pytest.approx(4)
    assert math.isnan(vendi([""]))


def test_vendi_of_two_texts_is_that_of_their_cosine():
    # Counts of a, b, (a b) and a, c, (a c) share one of three: the eigenvalues of K / 2 are (1 ± 1/3) / 2.
    shares = [2 / 3, 1 / 3]
    assert vendi(["a b", "a c"]) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_self_bleu_is_full_for_equal_texts_and_nothing_for_texts_without_a_common_word():
    assert self_bleu(["one and the same text of some length"] * 4) == pytest.approx(100)
    assert self_bleu(["a b c d e f", "g h i j k l"]) < 10
    assert math.isnan(self_bleu(["alone"]))
