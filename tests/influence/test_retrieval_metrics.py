import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from factlife.influence.queries import Relevance
from factlife.influence.retrieval_metrics import agreement, auc, evaluate_ranking, rank_documents, retrieval_metric_rows


def values(rows):
    return {(name, k): value for name, k, value in rows}


def test_metrics_of_a_short_list():
    relevant = np.array([[True, False, True, False]])
    metrics = values(
        retrieval_metric_rows(np.array([[1, 0, 3, 2]]), relevant, np.array([[1.0, 0, 0.5, 0]]), [1, 2, 4, 9])
    )

    assert metrics["recall", 1] == 0 and metrics["recall", 2] == 0.5 and metrics["recall", 4] == 1
    assert metrics["precision", 2] == 0.5 and metrics["r_precision", None] == 0.5
    assert metrics["mrr", None] == 0.5
    assert metrics["map", None] == pytest.approx((1 / 2 + 2 / 4) / 2)
    ideal = 1 + 0.5 / np.log2(3)
    assert metrics["ndcg", None] == pytest.approx((1 / np.log2(3) + 0.5 / np.log2(5)) / ideal)
    assert ("recall", 9) not in metrics


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.permutation(30.0 + np.arange(30))[None], rng.random((1, 30)) < 0.3
    relevant[0, :2] = True, False
    gain = np.where(relevant, rng.random((1, 30)), 0)
    metrics = values(retrieval_metric_rows(rank_documents(scores), relevant, gain, [5]))

    assert metrics["map", None][0] == pytest.approx(average_precision_score(relevant[0], scores[0]))
    assert metrics["ndcg", 5][0] == pytest.approx(ndcg_score(gain, scores, k=5))
    assert auc(scores, relevant, ~relevant)[0] == pytest.approx(roc_auc_score(relevant[0], scores[0]))


def test_a_query_without_relevant_documents_has_no_metric():
    metrics = retrieval_metric_rows(np.array([[0, 1]]), np.zeros((1, 2), bool), np.zeros((1, 2)), [1])
    assert all(np.isnan(value).all() for *_, value in metrics)
    assert np.isnan(auc(np.zeros((1, 2)), np.zeros((1, 2), bool), np.ones((1, 2), bool)))


def test_ties_are_broken_by_one_order_that_is_not_the_files():
    ranked = rank_documents(np.zeros((3, 50)))

    assert (ranked == ranked[0]).all() and sorted(ranked[0]) == list(range(50))
    assert not (ranked[0] == np.arange(50)).all()
    assert auc(np.zeros((1, 4)), np.array([[1, 1, 0, 0]], bool), np.array([[0, 0, 1, 1]], bool)) == 0.5


def test_ancestors_are_ranked_without_documents_of_the_subject():
    distance = np.array([[0, 0, 1, -1]])
    none = np.zeros((1, 4), bool)
    relevance = Relevance(distance, distance == 1, none, np.array([[False, False, False, True]]))
    queries = pd.DataFrame({"query_id": ["q"]})
    documents = pd.DataFrame({"kind": ["a", "a", "b", "b"]})

    table = evaluate_ranking(np.array([[4.0, 3.0, 2.0, 1.0]]), queries, documents, relevance, [2])
    rows = table[table["document_kind"] == "all"].set_index(["relevance", "metric"])["value"]

    assert rows["ancestors", "mrr"] == 1
    assert rows["chain", "hard_negative_auc"] == 1
    assert rows["chain", "composition_subject"] == 1
    by_kind = table[(table["document_kind"] == "b") & (table["metric"] == "mrr")]["value"].item()
    assert by_kind == pytest.approx(1 / 3)
    composition = table[table["metric"].str.startswith("composition")]["value"].sum()
    assert composition == pytest.approx(1)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_agreement_is_spearmans(seed):
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 5, (2, 1, 20)).astype(float)
    left[0, :2], right[0, :2] = (0, 1), (0, 1)
    assert agreement(left, right)[0] == pytest.approx(spearmanr(left[0], right[0]).statistic)
