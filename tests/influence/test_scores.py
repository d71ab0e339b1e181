import numpy as np
import pandas as pd
import pytest

from factlife.influence import InfluenceError, read_scores, write_scores


def test_scores_survive_a_file(tmp_path):
    scores = np.arange(6.0).reshape(2, 3)
    write_scores(scores, ["q0", "q1"], ["d0", "d1", "d2"], tmp_path / "scores.parquet")

    assert list(pd.read_parquet(tmp_path / "scores.parquet").columns) == ["query_id", "doc_id", "score"]
    scores_read = read_scores(tmp_path / "scores.parquet", ["q1", "q0"], ["d2", "d1", "d0"])
    np.testing.assert_array_equal(scores_read, scores[::-1, ::-1])


def test_scores_of_other_queries_are_refused(tmp_path):
    write_scores(np.zeros((1, 2)), ["q0"], ["d0", "d1"], tmp_path / "scores.parquet")
    with pytest.raises(InfluenceError, match="not one for each of 1 queries and 3 documents"):
        read_scores(tmp_path / "scores.parquet", ["q0"], ["d0", "d1", "d2"])


def test_a_score_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(InfluenceError, match="document d1 for query q0 is nan"):
        write_scores(np.array([[0, np.nan]]), ["q0"], ["d0", "d1"], tmp_path / "scores.parquet")
