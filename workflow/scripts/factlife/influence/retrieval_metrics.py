"""How well a ranking finds what is relevant, query by query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from factlife.influence.queries import Relevance

Rows = list[tuple[str, int | None, np.ndarray]]


def rank_documents(scores: np.ndarray) -> np.ndarray:
    """Documents of each query, best first, (queries, documents).

    Equal scores are ordered by one random order of all documents, the same for every ranker and query, so that no tie is
    broken by where documents stand in a file.
    """
    shuffled = np.random.default_rng(0).permutation(scores.shape[1])
    return shuffled[np.argsort(-scores[:, shuffled], axis=1, kind="stable")]


def retrieval_metric_rows(order: np.ndarray, relevant: np.ndarray, gain: np.ndarray, ks: Sequence[int]) -> Rows:
    """Metrics of ranked lists; NaN for a query that has nothing relevant.

    Precision, recall, R-precision, reciprocal rank, average precision and nDCG with linear gains (Järvelin and Kekäläinen
    2002, as in Manning et al. 2008, chapter 8).

    Args:
        order: (queries, documents), best first.
        relevant: (queries, documents).
        gain: (queries, documents), of relevant documents.
        ks: lengths of lists; those beyond the number of documents are left out.

    Returns:
        Name, k or None, and one value a query.
    """
    hits = np.take_along_axis(relevant, order, 1)
    total = relevant.sum(1)
    some = np.where(total > 0, 1.0, np.nan)
    cumulated = hits.cumsum(1)
    places = np.arange(1, hits.shape[1] + 1)
    discount = 1 / np.log2(places + 1)
    gains = np.where(relevant, gain, 0.0)
    dcg = (np.take_along_axis(gains, order, 1) * discount).cumsum(1)
    ideal = (-np.sort(-gains, axis=1) * discount).cumsum(1)
    rows: Rows = []
    for k in (k for k in ks if k <= hits.shape[1]):
        rows.append(("recall", k, cumulated[:, k - 1] / np.maximum(total, 1) * some))
        rows.append(("precision", k, cumulated[:, k - 1] / k * some))
        rows.append(("ndcg", k, dcg[:, k - 1] / np.where(total > 0, ideal[:, k - 1], 1.0) * some))
    at_r = np.take_along_axis(cumulated, np.maximum(total, 1)[:, None] - 1, 1)[:, 0]
    rows.append(("r_precision", None, at_r / np.maximum(total, 1) * some))
    rows.append(("mrr", None, 1 / (1 + hits.argmax(1)) * some))
    rows.append(("map", None, (hits * cumulated / places).sum(1) / np.maximum(total, 1) * some))
    rows.append(("ndcg", None, dcg[:, -1] / np.where(total > 0, ideal[:, -1], 1.0) * some))
    return rows


def auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Probability that a positive document scores above a negative one, ties half, (queries,); NaN where either lacks."""
    found = np.full(len(scores), np.nan)
    for row in range(len(scores)):
        good, bad = scores[row, positive[row]], scores[row, negative[row]]
        if len(good) and len(bad):
            ranks = rankdata(np.concatenate([good, bad]))[: len(good)]
            found[row] = (ranks.sum() - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))
    return found


def evaluate_ranking(
    scores: np.ndarray, queries: pd.DataFrame, documents: pd.DataFrame, relevance: Relevance, ks: Sequence[int]
) -> pd.DataFrame:
    """Every metric of every query.

    Returns:
        ``query_id, relevance, document_kind, metric, k, value``. Credit ``chain`` counts all documents of the chain;
        ``ancestors`` counts those of other subjects than the one asked about, whose own documents are out of the pool.
        ``composition_*`` say what a list is made of: documents about the subject asked, about ancestors, traps, documents
        of the same value, and others; they add up to 1.
    """
    ranked = rank_documents(scores)
    parts = [_table(retrieval_metric_rows(ranked, relevance.distance >= 0, relevance.gain, ks), queries, "chain")]
    parts.append(_table([
        ("hard_negative_auc", None, auc(scores, relevance.distance >= 0, relevance.hard_negative)),
        ("same_value_auc", None, auc(scores, relevance.terminal, relevance.same_value)),
        *_composition(ranked, relevance, ks),
    ], queries, "chain"))  # fmt: skip
    kinds = documents["kind"].to_numpy()
    for kind in np.unique(kinds):
        rows = retrieval_metric_rows(ranked, (relevance.distance >= 0) & (kinds == kind), relevance.gain, ks)
        parts.append(_table([row for row in rows if row[0] in ("recall", "mrr")], queries, "chain", kind))
    deep = (relevance.distance > 0).any(1)
    if deep.any():
        # Own documents go to the end of the list, where they count for nothing.
        without = rank_documents(np.where(relevance.distance[deep] == 0, -np.inf, scores[deep]))
        parts.append(
            _table(
                retrieval_metric_rows(without, relevance.distance[deep] > 0, relevance.gain[deep], ks),
                queries[deep],
                "ancestors",
            )
        )
    return pd.concat(parts, ignore_index=True).dropna(subset="value")


def _composition(ranked: np.ndarray, relevance: Relevance, ks: Sequence[int]) -> Rows:
    own, ancestors = relevance.distance == 0, relevance.distance > 0
    classes = {
        "subject": own,
        "ancestor": ancestors,
        "hard_negative": relevance.hard_negative,
        "same_value": relevance.same_value & ~relevance.hard_negative,
    }
    classes["other"] = ~np.logical_or.reduce(list(classes.values()))
    return [
        (f"composition_{name}", k, np.take_along_axis(member, ranked[:, :k], 1).mean(1))
        for k in ks
        if k <= ranked.shape[1]
        for name, member in classes.items()
    ]


def _table(rows: Rows, queries: pd.DataFrame, relevance: str, kind: str = "all") -> pd.DataFrame:
    parts = [
        pd.DataFrame({"query_id": queries["query_id"].to_numpy(), "metric": metric, "k": k, "value": value})
        for metric, k, value in rows
    ]
    table = pd.concat(parts, ignore_index=True).astype({"k": "Int64"})
    return table.assign(relevance=relevance, document_kind=kind)


def agreement(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Spearman's correlation of two rankers' scores over documents, (queries,); NaN where one says the same of all."""
    ranks = [rankdata(side, axis=1) for side in (left, right)]
    centred = [side - side.mean(1, keepdims=True) for side in ranks]
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(1) / np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
