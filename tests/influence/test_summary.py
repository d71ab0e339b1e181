import numpy as np
import pandas as pd
import pytest

from factlife.influence import evaluate_rankings, read_all_scores, retraining_metrics, summarise, write_scores
from factlife.influence.queries import label_relevance


@pytest.fixture(scope="module")
def no_retraining_metrics(queries, documents):
    """No retrained models."""
    return retraining_metrics.evaluate_against_retrained(
        retraining_metrics.read_retrained([]), {}, queries, documents, correct=np.ones(len(queries), bool), resamples=2
    )


@pytest.fixture(scope="module")
def query_metrics(functions, documents, queries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    relevance = label_relevance(queries, documents, functions)
    rankers = {"perfect": relevance.gain, "worst": -relevance.gain}
    for name, matrix in rankers.items():
        write_scores(matrix, queries["query_id"].tolist(), documents["doc_id"].tolist(), folder / name)
    scores = read_all_scores({name: folder / name for name in rankers}, queries, documents)
    recall = pd.DataFrame({"step": [0, 9] * len(queries), "probe_id": queries["query_id"].repeat(2)})
    recall["candidate_correct"] = (recall["step"] == 9) & (recall["probe_id"] != queries["query_id"][0])
    table = evaluate_rankings(scores, functions, queries, documents, recall, [1, 5])
    return table.assign(model="m", seed=0, world="functions")


def test_incorrect_queries_are_flagged_and_kept(query_metrics, queries):
    assert set(query_metrics["query_id"]) == set(queries["query_id"])
    assert set(query_metrics.loc[~query_metrics["correct"], "query_id"]) == {queries["query_id"][0]}


def test_summary_of_perfect_and_worst_rankers(query_metrics, no_retraining_metrics, queries):
    table = summarise(query_metrics, no_retraining_metrics, resamples=50)
    expected_columns = [
        "model",
        "seed",
        "world",
        "ranker",
        "depth",
        "k",
        "metric",
        "n",
        "estimate",
        "ci_low",
        "ci_high",
        "interval_over",
    ]
    assert list(table.columns)[: len(expected_columns)] == expected_columns
    rows = table[(table["relevance"] == "chain") & (table["document_kind"] == "all") & (table["query_set"] == "all")]
    estimates = rows[rows["group"] == "all"].set_index(["ranker", "depth", "metric", "k"])["estimate"]

    for depth in ("all", "0", "1", "2"):
        assert estimates["perfect", depth, "map", ""] == 1 and estimates["perfect", depth, "ndcg", ""] == pytest.approx(
            1
        )
        assert estimates["worst", depth, "hard_negative_auc", ""] == 0
    accuracy = table[table["metric"] == "accuracy"].set_index(["depth", "group", "query_set"])
    assert accuracy.at[("all", "all", "all"), "estimate"] == pytest.approx(1 - 1 / len(queries))
    assert accuracy.at[("all", "all", "correct"), "estimate"] == 1
    opposite = table[(table["metric"] == "spearman") & (table["depth"] == "all") & (table["query_set"] == "all")]
    assert opposite["estimate"].item() == pytest.approx(-1)
    assert opposite[["ranker", "other_ranker"]].to_numpy().tolist() == [["perfect", "worst"]]
    assert np.isfinite(table[["estimate", "ci_low", "ci_high"]].to_numpy()).all()


def test_intervals_contain_estimates_and_are_reproducible(query_metrics, no_retraining_metrics):
    table = summarise(query_metrics, no_retraining_metrics, resamples=200)
    rows = table[(table["ranker"] == "perfect") & (table["metric"] == "precision") & (table["k"] == "5")]
    assert ((rows["ci_low"] <= rows["estimate"]) & (rows["estimate"] <= rows["ci_high"])).all()
    again = summarise(query_metrics, no_retraining_metrics, resamples=200)
    pd.testing.assert_frame_equal(table, again)
