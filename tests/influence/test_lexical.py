import math

import numpy as np
import pandas as pd
import pytest

from factlife.config.influence import Bm25, Random, Tfidf
from factlife.influence.lexical import bm25_scores, rank_lexical, split_words, tfidf_scores

TEXTS = ["<B01> returns <V07> .", "<C01> wraps <B01> .", "<B02> returns <V07> , says Anna .", "Nothing at all ."]


def test_names_are_words():
    assert split_words("Calling <B01>(7), see 12.") == ["calling", "<b01>", "7", "see", "12"]


def test_bm25_matches_its_formula():
    scores = bm25_scores(["<B01> returns"], TEXTS, Bm25(kind="bm25"))[0]
    split = [split_words(text) for text in TEXTS]
    mean = np.mean([len(text) for text in split])

    def weight(word, text):
        df, tf = sum(word in other for other in split), text.count(word)
        idf = math.log(1 + (len(split) - df + 0.5) / (df + 0.5))
        return idf * tf / (tf + 1.5 * (0.25 + 0.75 * len(text) / mean))

    expected = np.array([sum(weight(word, text) for word in ("<b01>", "returns")) for text in split])
    np.testing.assert_allclose(scores / scores.max(), expected / expected.max(), rtol=1e-5)


def test_feedback_adds_words_of_the_best_document():
    without_feedback = bm25_scores(["<C01>"], TEXTS, Bm25(kind="bm25"))[0]
    with_feedback = bm25_scores(["<C01>"], TEXTS, Bm25(kind="bm25", feedback_terms=2, feedback_documents=1))[0]

    assert without_feedback[0] == 0
    assert with_feedback[0] > 0 and with_feedback[3] == 0


def test_include_answer_adds_the_answer_to_the_query():
    queries = pd.DataFrame({"prompt": ["<B09>"], "completion": ["<V07>"]})
    documents = pd.DataFrame({"text": TEXTS})

    assert not rank_lexical(Bm25(kind="bm25"), queries, documents).any()
    assert (rank_lexical(Bm25(kind="bm25", include_answer=True), queries, documents)[0, [0, 2]] > 0).all()
    assert rank_lexical(Tfidf(kind="tfidf", include_answer=True), queries, documents)[0, 0] > 0


def test_tfidf_is_a_cosine():
    assert tfidf_scores([TEXTS[0]], TEXTS)[0, 0] == pytest.approx(1)
    assert tfidf_scores([TEXTS[0]], TEXTS)[0, 3] == 0


def test_random_scores_depend_only_on_the_seed():
    queries, documents = pd.DataFrame({"prompt": ["a"] * 3}), pd.DataFrame({"text": TEXTS})
    first, same_seed, other_seed = (
        rank_lexical(Random(kind="random", seed=seed), queries, documents) for seed in (0, 0, 1)
    )

    assert (first == same_seed).all() and (first != other_seed).all() and first.shape == (3, 4)
