"""Retrieval metrics: how well a ranking finds the relevant documents, query by query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from factlife.influence.queries import Relevance

# Metric, k or None, and one value per query.
Rows = list[tuple[str, int | None, np.ndarray]]


def rank_documents(scores: np.ndarray) -> np.ndarray:
    """Document indices of each query, best first, (queries, documents).

    Ties are broken by one random order of all documents, the same for every ranker and query, so that the order of documents
    in a file does not matter.
    """
    shuffled = np.random.default_rng(0).permutation(scores.shape[1])
    return shuffled[np.argsort(-scores[:, shuffled], axis=1, kind="stable")]


def retrieval_metric_rows(order: np.ndarray, relevant: np.ndarray, gain: np.ndarray, ks: Sequence[int]) -> Rows:
    """Metrics of ranked lists; NaN for a query without relevant documents.

    Precision, recall, R-precision, reciprocal rank, average precision and nDCG with linear gains (Järvelin and Kekäläinen
    2002, as in Manning et al. 2008, chapter 8).

    Args:
        order: document indices, best first, (queries, documents).
        relevant: whether a document is relevant, (queries, documents).
        gain: gain of relevant documents, (queries, documents).
        ks: cutoffs; those beyond the number of documents are skipped.

    Returns:
        Metric, k or None, and one value per query.
    """
    hits = np.take_along_axis(relevant, order, 1)
    n_relevant = relevant.sum(1)
    nan_if_none = np.where(n_relevant > 0, 1.0, np.nan)
    cumulative_hits = hits.cumsum(1)
    ranks = np.arange(1, hits.shape[1] + 1)
    discount = 1 / np.log2(ranks + 1)
    gains = np.where(relevant, gain, 0.0)
    dcg = (np.take_along_axis(gains, order, 1) * discount).cumsum(1)
    ideal_dcg = (-np.sort(-gains, axis=1) * discount).cumsum(1)
    rows: Rows = []
    for k in (k for k in ks if k <= hits.shape[1]):
        rows.append(("recall", k, cumulative_hits[:, k - 1] / np.maximum(n_relevant, 1) * nan_if_none))
        rows.append(("precision", k, cumulative_hits[:, k - 1] / k * nan_if_none))
        rows.append(("ndcg", k, dcg[:, k - 1] / np.where(n_relevant > 0, ideal_dcg[:, k - 1], 1.0) * nan_if_none))
    hits_at_r = np.take_along_axis(cumulative_hits, np.maximum(n_relevant, 1)[:, None] - 1, 1)[:, 0]
    average_precision = (hits * cumulative_hits / ranks).sum(1) / np.maximum(n_relevant, 1)
    rows.append(("r_precision", None, hits_at_r / np.maximum(n_relevant, 1) * nan_if_none))
    rows.append(("mrr", None, 1 / (1 + hits.argmax(1)) * nan_if_none))
    rows.append(("map", None, average_precision * nan_if_none))
    rows.append(("ndcg", None, dcg[:, -1] / np.where(n_relevant > 0, ideal_dcg[:, -1], 1.0) * nan_if_none))
    return rows


def auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Probability that a positive document outscores a negative one, ties half, (queries,); NaN without either."""
    aucs = np.full(len(scores), np.nan)
    for row in range(len(scores)):
        positive_scores, negative_scores = scores[row, positive[row]], scores[row, negative[row]]
        n_positive, n_negative = len(positive_scores), len(negative_scores)
        if n_positive and n_negative:
            ranks = rankdata(np.concatenate([positive_scores, negative_scores]))[:n_positive]
            aucs[row] = (ranks.sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return aucs


def evaluate_ranking(
    scores: np.ndarray, queries: pd.DataFrame, documents: pd.DataFrame, relevance: Relevance, ks: Sequence[int]
) -> pd.DataFrame:
    """All metrics of all queries for one ranker.

    Returns:
        ``query_id, relevance, document_kind, metric, k, value``. With relevance ``chain``, all documents of the chain are
        relevant. With relevance ``ancestors``, only those of subjects further along the chain are relevant, and documents
        of the query's own subject are removed from the ranking. ``composition_*`` are the fractions of the top k that are
        about the query's subject, about ancestors, hard negatives, documents with the same value, or others; they sum to 1.
    """
    order, is_relevant = rank_documents(scores), relevance.distance >= 0
    parts = [_table(retrieval_metric_rows(order, is_relevant, relevance.gain, ks), queries, "chain")]
    parts.append(_table([
        ("hard_negative_auc", None, auc(scores, is_relevant, relevance.hard_negative)),
        ("same_value_auc", None, auc(scores, relevance.terminal, relevance.same_value)),
        *_composition(order, relevance, ks),
    ], queries, "chain"))  # fmt: skip
    kinds = documents["kind"].to_numpy()
    for kind in np.unique(kinds):
        rows = retrieval_metric_rows(order, is_relevant & (kinds == kind), relevance.gain, ks)
        parts.append(_table([row for row in rows if row[0] in ("recall", "mrr")], queries, "chain", kind))
    has_ancestors = (relevance.distance > 0).any(1)
    if has_ancestors.any():
        distance, gain = relevance.distance[has_ancestors], relevance.gain[has_ancestors]
        # Documents of the query's own subject move to the end of the list, where they do not count.
        order = rank_documents(np.where(distance == 0, -np.inf, scores[has_ancestors]))
        rows = retrieval_metric_rows(order, distance > 0, gain, ks)
        parts.append(_table(rows, queries[has_ancestors], "ancestors"))
    return pd.concat(parts, ignore_index=True).dropna(subset="value")


def _composition(order: np.ndarray, relevance: Relevance, ks: Sequence[int]) -> Rows:
    classes = {
        "subject": relevance.distance == 0,
        "ancestor": relevance.distance > 0,
        "hard_negative": relevance.hard_negative,
        "same_value": relevance.same_value & ~relevance.hard_negative,
    }
    classes["other"] = ~np.logical_or.reduce(list(classes.values()))
    return [
        (f"composition_{name}", k, np.take_along_axis(is_member, order[:, :k], 1).mean(1))
        for k in ks
        if k <= order.shape[1]
        for name, is_member in classes.items()
    ]


def _table(rows: Rows, queries: pd.DataFrame, relevance: str, kind: str = "all") -> pd.DataFrame:
    parts = [
        pd.DataFrame({"query_id": queries["query_id"].to_numpy(), "metric": metric, "k": k, "value": value})
        for metric, k, value in rows
    ]
    table = pd.concat(parts, ignore_index=True).astype({"k": "Int64"})
    return table.assign(relevance=relevance, document_kind=kind)


def agreement(scores: np.ndarray, other_scores: np.ndarray) -> np.ndarray:
    """Spearman's correlation of two rankers' scores over documents, (queries,); NaN if a ranker's scores are all equal."""
    ranks = [rankdata(matrix, axis=1) for matrix in (scores, other_scores)]
    centred = [row_ranks - row_ranks.mean(1, keepdims=True) for row_ranks in ranks]
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(1) / np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
