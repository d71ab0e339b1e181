"""Metrics of how well scores predict models retrained without some documents: LDS, leave-one-out, top-k removal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from factlife.influence import comparison
from factlife.influence.errors import InfluenceError
from factlife.world.tables import read_table

CEILING, RANDOM, RELEVANT = "ceiling", "random documents", "relevant documents"
_NUMBERS = ["estimate", "ci_low", "ci_high", "p", "p_corrected"]
_COLUMNS = ["ranker", "other_ranker", "group", "depth", "query_set", "metric", "n", "interval_over", *_NUMBERS]
_RUN_KINDS = {"lds": "subset", "loo": "leave_one_out"}


def read_retrained(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Concatenate tables of ``retraining.retrain`` from several jobs; an empty table without any."""
    columns = ["kind", "name", "repeat", "removed_doc_ids", "query_ids", "loss_nats"]
    return pd.concat([pd.DataFrame(columns=columns), *map(read_table, paths)], ignore_index=True)


def evaluate_against_retrained(
    retrained: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    *,
    correct: np.ndarray,
    resamples: int,
) -> pd.DataFrame:
    """Compare the scores of all rankers with models retrained without some documents.

    - ``lds``: linear datamodeling score (Ilyas et al. 2022; Park et al. 2023). For each query, Spearman's correlation over
      random subsets of documents between the summed scores of the kept documents and the retrained model's log probability
      of the answer; then the mean over queries. A query for which all subsets have equal scores counts as 0.
    - ``loo``: the same over models trained without one document.
    - Ranker ``ceiling``: the square root of the reliability of mean log probabilities, √(n r / (1 + (n − 1) r)) for n models
      per subset and the mean correlation r between two of them (Spearman 1910, Brown 1910). The best ranker reaches about
      this value.
    - ``removal_loss``: the loss in nats without the top documents of a ranker, minus that without as many random documents,
      mean over queries.
    - The same names with ``_difference``: differences between two rankers, with p and Holm's p over all pairs.

    Intervals of ``lds`` and ``loo`` are a bootstrap over subjects and subsets at once. Those of ``removal_loss`` are
    Student's t over pairs of models of the same seed.

    Args:
        retrained: retrained models from ``read_retrained``.
        scores: scores of each ranker, (queries, documents).
        queries: the result of ``queries.select_queries``.
        documents: the result of ``queries.select_documents``.
        correct: whether the original model answers each query correctly.
        resamples: bootstrap resamples.

    Returns:
        ``ranker, other_ranker, group, depth, query_set, metric, n, interval_over, estimate, ci_low, ci_high, p, p_corrected``.

    Raises:
        InfluenceError: a model was evaluated on other queries.
    """
    query_ids = queries["query_id"].tolist()
    if mismatched := [row.name for row in retrained.itertuples() if list(row.query_ids) != query_ids]:
        raise InfluenceError(
            f"retrained model {mismatched[0]!r} was evaluated on other queries; delete the retrained models and run again"
        )
    columns = {doc_id: i for i, doc_id in enumerate(documents["doc_id"])}
    parts = []
    for metric, kind in _RUN_KINDS.items():
        models = retrained[retrained["kind"] == kind]
        if models.empty:
            continue
        losses = np.stack([np.array(rows["loss_nats"].tolist()) for _, rows in models.groupby("name", sort=True)])
        removed = np.zeros((len(losses), len(documents)))
        for row, doc_ids in enumerate(models.groupby("name", sort=True)["removed_doc_ids"].first()):
            removed[row, [columns[doc_id] for doc_id in doc_ids]] = 1
        mean_losses, n_repeats = losses.mean(1), losses.shape[1]
        correlations = {
            ranker: _resampled_correlations(removed @ matrix.astype(float).T, mean_losses, resamples)
            for ranker, matrix in scores.items()
        }
        repeat_correlations = [
            _resampled_correlations(losses[:, i], losses[:, j], resamples)
            for i, j in itertools.combinations(range(n_repeats), 2)
        ]
        for query_keys, mask in query_subsets(queries, correct):
            subjects = queries.loc[mask, "subject"].to_numpy()
            keys = query_keys | {"n": len(subjects), "interval_over": "facts and subsets"}
            means = {ranker: _resampled_means(values[:, mask], subjects) for ranker, values in correlations.items()}
            table = comparison.differences(means, len(set(subjects)))
            parts.append(table.assign(metric=f"{metric}_difference", **keys))
            if repeat_correlations:
                reliability = _resampled_means(np.mean(repeat_correlations, axis=0)[:, mask], subjects)
                means[CEILING] = _ceiling(reliability[0], n_repeats), _ceiling(reliability[1], n_repeats)
            parts.append(comparison.intervals(means).assign(metric=metric, **keys))
    parts += _removal_losses(retrained[retrained["kind"] == "top_k_removal"], queries, correct)
    table = pd.concat([pd.DataFrame(columns=_COLUMNS), *parts], ignore_index=True)[_COLUMNS]
    return table.astype(dict.fromkeys(_NUMBERS, float) | {"n": int}).fillna({"other_ranker": ""})


def subset_correlations(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Spearman's correlation over subsets for each column of two (subsets, queries) arrays; 0 for a constant column."""
    ranks = [rankdata(values, axis=0) for values in (predicted, measured)]
    x, y = (column_ranks - column_ranks.mean(0) for column_ranks in ranks)
    scale = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.zeros(x.shape[1]), where=scale > 0)


def _resampled_correlations(predicted: np.ndarray, measured: np.ndarray, resamples: int) -> np.ndarray:
    """Correlation of each query, then those with resampled subsets, the same for all rankers, (1 + resamples, queries)."""
    rng, n_subsets = np.random.default_rng(0), len(predicted)
    draws = [np.arange(n_subsets), *rng.integers(n_subsets, size=(resamples, n_subsets))]
    return np.stack([subset_correlations(predicted[rows], measured[rows]) for rows in draws])


def _resampled_means(correlations: np.ndarray, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over queries of ``_resampled_correlations``: the estimate, and resamples in which subjects are resampled too."""
    codes, names = pd.factorize(subjects)
    rng, n_subjects = np.random.default_rng(1), len(names)
    draws = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=len(correlations) - 1)
    weights = draws[:, codes]
    return correlations[0].mean(), (correlations[1:] * weights).sum(1) / weights.sum(1)


def _ceiling(r: np.ndarray, n_repeats: int) -> np.ndarray:
    positive = np.maximum(r, 0.0)
    return np.sqrt(n_repeats * positive / (1 + (n_repeats - 1) * positive))


def _removal_losses(retrained: pd.DataFrame, queries: pd.DataFrame, correct: np.ndarray) -> Iterator[pd.DataFrame]:
    for query_keys, mask in query_subsets(queries, correct):
        mean_losses = retrained.assign(loss=[np.asarray(losses)[mask].mean() for losses in retrained["loss_nats"]])
        by_ranker = mean_losses.pivot(index="repeat", columns="name", values="loss")
        if RANDOM not in by_ranker:
            continue
        increase = by_ranker.drop(columns=RANDOM).sub(by_ranker[RANDOM], axis=0)
        keys = query_keys | {"interval_over": "seeds"}
        yield comparison.over_seeds(increase).assign(metric="removal_loss", **keys)
        yield comparison.differences_over_seeds(increase).assign(metric="removal_loss_difference", **keys)


def query_subsets(queries: pd.DataFrame, correct: np.ndarray) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Subsets of the queries as masks, with their keys ``group``, ``depth`` and ``query_set`` (`all` or `correct`)."""
    subsets = [({"group": "all", "depth": "all"}, np.ones(len(queries), dtype=bool))]
    for (group, depth), rows in queries.reset_index(drop=True).groupby(["group", "depth"], sort=True):
        mask = np.zeros(len(queries), dtype=bool)
        mask[rows.index] = True
        subsets.append(({"group": group, "depth": str(depth)}, mask))
    for keys, mask in subsets:
        yield keys | {"query_set": "all"}, mask
        is_correct = mask & correct
        if is_correct.any() and not is_correct[mask].all():
            yield keys | {"query_set": "correct"}, is_correct
