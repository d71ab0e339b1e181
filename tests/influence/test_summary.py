import numpy as np
import pandas as pd
import pytest

from factlife.influence import evaluate_rankings, read_all_scores, retraining_metrics, summarise, write_scores
from factlife.influence.queries import label_relevance


@pytest.fixture(scope="module")
def none(queries, documents):
    """No retrained models."""
    return retraining_metrics.evaluate_against_retrained(
        retraining_metrics.read_retrained([]), {}, queries, documents, correct=np.ones(len(queries), bool), resamples=2
    )


@pytest.fixture(scope="module")
def judged(functions, documents, queries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    known = label_relevance(queries, documents, functions)
    rankers = {"perfect": known.gain, "worst": -known.gain}
    for name, scores in rankers.items():
        write_scores(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), folder / name)
    found = read_all_scores({name: folder / name for name in rankers}, queries, documents)
    recall = pd.DataFrame({"step": [0, 9] * len(queries), "probe_id": queries["query_id"].repeat(2)})
    recall["candidate_correct"] = (recall["step"] == 9) & (recall["probe_id"] != queries["query_id"][0])
    table = evaluate_rankings(found, functions, queries, documents, recall, [1, 5])
    return table.assign(model="m", seed=0, world="functions")


def test_wrong_answers_are_flagged_and_kept(judged, queries):
    assert set(judged["query_id"]) == set(queries["query_id"])
    assert set(judged.loc[~judged["correct"], "query_id"]) == {queries["query_id"][0]}


def test_the_table_says_what_is_known(judged, none, queries):
    table = summarise(judged, none, resamples=50)
    shared = [
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
    assert list(table.columns)[: len(shared)] == shared
    rows = table[(table["relevance"] == "chain") & (table["document_kind"] == "all") & (table["query_set"] == "all")]
    at = rows[rows["group"] == "all"].set_index(["ranker", "depth", "metric", "k"])["estimate"]

    for depth in ("all", "0", "1", "2"):
        assert at["perfect", depth, "map", ""] == 1 and at["perfect", depth, "ndcg", ""] == pytest.approx(1)
        assert at["worst", depth, "hard_negative_auc", ""] == 0
    answers = table[table["metric"] == "accuracy"].set_index(["depth", "group", "query_set"])
    assert answers.at[("all", "all", "all"), "estimate"] == pytest.approx(1 - 1 / len(queries))
    assert answers.at[("all", "all", "correct"), "estimate"] == 1
    opposite = table[(table["metric"] == "spearman") & (table["depth"] == "all") & (table["query_set"] == "all")]
    assert opposite["estimate"].item() == pytest.approx(-1)
    assert opposite[["ranker", "other_ranker"]].to_numpy().tolist() == [["perfect", "worst"]]
    assert np.isfinite(table[["estimate", "ci_low", "ci_high"]].to_numpy()).all()


def test_intervals_come_from_whole_subjects(judged, none):
    table = summarise(judged, none, resamples=200)
    rows = table[(table["ranker"] == "perfect") & (table["metric"] == "precision") & (table["k"] == "5")]
    assert ((rows["ci_low"] <= rows["estimate"]) & (rows["estimate"] <= rows["ci_high"])).all()
    again = summarise(judged, none, resamples=200)
    pd.testing.assert_frame_equal(table, again)
