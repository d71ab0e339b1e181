"""Scores of all documents for all queries: ``query_id, doc_id, score``; a higher score means more influential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from factlife.influence.errors import InfluenceError
from factlife.world.tables import read_table, write_table


def write_scores(scores: np.ndarray, queries: Sequence[str], documents: Sequence[str], path: str | Path) -> None:
    """Write a score matrix, (queries, documents), as a table with one row per pair.

    Raises:
        InfluenceError: a score is not finite.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if scores.shape != (len(queries), len(documents)):
        raise InfluenceError(f"{scores.shape} scores for {len(queries)} queries and {len(documents)} documents")
    if not np.isfinite(scores).all():
        query, document = np.argwhere(~np.isfinite(scores))[0]
        raise InfluenceError(
            f"the score of document {documents[document]} for query {queries[query]} is {scores[query, document]}; "
            "increase the damping, or check that the model's loss is finite"
        )
    frame = pd.DataFrame(
        {
            "query_id": _categorical(np.repeat(np.arange(len(queries)), len(documents)), queries),
            "doc_id": _categorical(np.tile(np.arange(len(documents)), len(queries)), documents),
            "score": scores.ravel(),
        }
    )
    write_table(frame, path)


def _categorical(codes: np.ndarray, ids: Sequence[str]) -> pd.Categorical:
    # Parquet then stores each id once.
    return pd.Categorical.from_codes(codes.astype(np.int32), categories=list(ids))


def read_scores(path: str | Path, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """The score matrix, (queries, documents), in the given order of queries and documents.

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
        raise InfluenceError(f"{path} has duplicate pairs of query and document; delete it and run again")
    return scores


def read_all_scores(
    paths: Mapping[str, str | Path], queries: pd.DataFrame, documents: pd.DataFrame
) -> dict[str, np.ndarray]:
    """Score matrices of several rankers, by name."""
    query_ids, doc_ids = queries["query_id"].tolist(), documents["doc_id"].tolist()
    return {ranker: read_scores(path, query_ids, doc_ids) for ranker, path in paths.items()}
