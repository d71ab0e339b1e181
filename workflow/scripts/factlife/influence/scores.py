"""What a ranker says of every document for every query: ``query_id, doc_id, score``, higher is more influential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from factlife.influence.errors import InfluenceError
from factlife.world.tables import read_table, write_table


def write_scores(scores: np.ndarray, queries: Sequence[str], documents: Sequence[str], path: str | Path) -> None:
    """Write a matrix of scores, (queries, documents), as a table with one row per pair.

    Raises:
        InfluenceError: a score is not a number.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if scores.shape != (len(queries), len(documents)):
        raise InfluenceError(f"{scores.shape} scores for {len(queries)} queries and {len(documents)} documents")
    if not np.isfinite(scores).all():
        query, document = np.argwhere(~np.isfinite(scores))[0]
        raise InfluenceError(
            f"the score of document {documents[document]} for query {queries[query]} is {scores[query, document]}; "
            "a larger damping, or a model whose loss is finite, would mend it"
        )
    frame = pd.DataFrame(
        {
            "query_id": _repeated(np.repeat(np.arange(len(queries)), len(documents)), queries),
            "doc_id": _repeated(np.tile(np.arange(len(documents)), len(queries)), documents),
            "score": scores.ravel(),
        }
    )
    write_table(frame, path)


def _repeated(codes: np.ndarray, ids: Sequence[str]) -> pd.Categorical:
    # Parquet then holds each id once.
    return pd.Categorical.from_codes(codes.astype(np.int32), categories=list(ids))


def read_scores(path: str | Path, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """The matrix of scores, (queries, documents), in the order asked for.

    Raises:
        InfluenceError: a pair is missing or occurs twice.
    """
    frame = read_table(path)
    rows = pd.Index(queries).get_indexer(frame["query_id"].astype(str))
    columns = pd.Index(documents).get_indexer(frame["doc_id"].astype(str))
    if len(frame) != len(queries) * len(documents) or (rows < 0).any() or (columns < 0).any():
        raise InfluenceError(
            f"{path} has {len(frame)} scores, not one for each of {len(queries)} queries and {len(documents)} "
            "documents; delete it and run again"
        )
    scores = np.full((len(queries), len(documents)), np.nan, dtype=np.float32)
    scores[rows, columns] = frame["score"]
    if np.isnan(scores).any():
        raise InfluenceError(f"{path} has a pair of query and document twice; delete it and run again")
    return scores


def read_all_scores(
    paths: Mapping[str, str | Path], queries: pd.DataFrame, documents: pd.DataFrame
) -> dict[str, np.ndarray]:
    """The matrices of several rankers, by name."""
    asked, ranked = queries["query_id"].tolist(), documents["doc_id"].tolist()
    return {ranker: read_scores(path, asked, ranked) for ranker, path in paths.items()}
