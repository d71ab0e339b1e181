"""How well scores foretell what models do that are retrained without some documents."""

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
_SUBSETS = {"lds": "subset", "loo": "leave_one_out"}


def read_retrained(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Models of ``retraining.retrain`` from several jobs; none from none."""
    columns = ["kind", "name", "repeat", "removed_doc_ids", "query_ids", "loss_nats"]
    return pd.concat([pd.DataFrame(columns=columns), *map(read_table, paths)], ignore_index=True)


def evaluate_against_retrained(
    trained: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    *,
    correct: np.ndarray,
    resamples: int,
) -> pd.DataFrame:
    """Scores of all rankers against models retrained without some documents.

    - ``lds``: linear datamodeling score (Ilyas et al. 2022; Park et al. 2023). For each query, Spearman's correlation over
      random subsets of documents between the sum of scores of what a subset keeps and the retrained model's log
      probability of the answer; then the mean over queries. 0 for a query of which a ranker says the same of all subsets.
    - ``loo``: the same over subsets that lack one document.
    - Ranker ``ceiling``: the root of the reliability of mean log probabilities, √(n r / (1 + (n − 1) r)) for n models on
      each subset and the mean correlation r of two of them (Spearman 1910, Brown 1910): about what the best ranker reaches.
    - ``removal_loss``: the loss in nats without the documents that a ranker puts first, less that without as many random
      ones, mean over queries.

    - The same names with ``_difference``: of two rankers, with p and Holm's p over all pairs.

    Intervals of ``lds`` and ``loo`` are a bootstrap over subjects and subsets at once, those of ``removal_loss`` Student's
    over pairs of models of the same seed.

    Args:
        trained: retrained models, of ``read_retrained``.
        scores: of each ranker, (queries, documents).
        queries: a table of ``queries.select_queries``.
        documents: a table of ``queries.select_documents``.
        correct: whether the model that is ranked for answers each query.
        resamples: bootstrap resamples.

    Returns:
        ``ranker, other_ranker, group, depth, query_set, metric, n, interval_over, estimate, ci_low, ci_high, p, p_corrected``.

    Raises:
        InfluenceError: a model was asked other queries.
    """
    asked = queries["query_id"].tolist()
    if wrong := [row.name for row in trained.itertuples() if list(row.query_ids) != asked]:
        raise InfluenceError(f"retrained model {wrong[0]!r} was asked other queries; delete the bank and run again")
    at = {document: place for place, document in enumerate(documents["doc_id"])}
    parts = []
    for metric, kind in _SUBSETS.items():
        models = trained[trained["kind"] == kind]
        if models.empty:
            continue
        losses = np.stack([np.array(rows["loss_nats"].tolist()) for _, rows in models.groupby("name", sort=True)])
        dropped = np.zeros((len(losses), len(documents)))
        for row, names in enumerate(models.groupby("name", sort=True)["removed_doc_ids"].first()):
            dropped[row, [at[name] for name in names]] = 1
        mean, repeats = losses.mean(1), losses.shape[1]
        agreeing = {
            ranker: _resampled(dropped @ matrix.astype(float).T, mean, resamples) for ranker, matrix in scores.items()
        }
        pairs = list(itertools.combinations(range(repeats), 2))
        between = [_resampled(losses[:, one], losses[:, other], resamples) for one, other in pairs]
        for cut, chosen in cuts(queries, correct):
            subjects = queries.loc[chosen, "subject"].to_numpy()
            keys = cut | {"n": len(subjects), "interval_over": "facts and subsets"}
            found = {ranker: _means(values[:, chosen], subjects) for ranker, values in agreeing.items()}
            parts.append(
                comparison.differences(found, len(set(subjects))).assign(metric=f"{metric}_difference", **keys)
            )
            if between:
                found[CEILING] = tuple(
                    _ceiling(r, repeats) for r in _means(np.mean(between, axis=0)[:, chosen], subjects)
                )
            parts.append(comparison.intervals(found).assign(metric=metric, **keys))
    parts += _removals(trained[trained["kind"] == "top_k_removal"], queries, correct)
    table = pd.concat([pd.DataFrame(columns=_COLUMNS), *parts], ignore_index=True)[_COLUMNS]
    return table.astype(dict.fromkeys(_NUMBERS, float) | {"n": int}).fillna({"other_ranker": ""})


def subset_correlations(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Spearman's correlation over rows for each column of two (subsets, queries), 0 where one side says nothing."""
    ranks = [rankdata(side, axis=0) for side in (predicted, measured)]
    left, right = (side - side.mean(0) for side in ranks)
    scale = np.sqrt((left**2).sum(0) * (right**2).sum(0))
    return np.divide((left * right).sum(0), scale, out=np.zeros(left.shape[1]), where=scale > 0)


def _resampled(predicted: np.ndarray, measured: np.ndarray, resamples: int) -> np.ndarray:
    """Each query's correlation, and those when subsets are drawn again, the same for all rankers, (1 + resamples, queries)."""
    rng, count = np.random.default_rng(0), len(predicted)
    draws = [np.arange(count), *rng.integers(count, size=(resamples, count))]
    return np.stack([subset_correlations(predicted[rows], measured[rows]) for rows in draws])


def _means(found: np.ndarray, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over queries of what ``_resampled`` found, and its resamples with subjects drawn again too."""
    codes, names = pd.factorize(subjects)
    draws = np.random.default_rng(1).multinomial(len(names), np.full(len(names), 1 / len(names)), size=len(found) - 1)
    weights = draws[:, codes]
    return found[0].mean(), (found[1:] * weights).sum(1) / weights.sum(1)


def _ceiling(r: np.ndarray, repeats: int) -> np.ndarray:
    positive = np.maximum(r, 0.0)
    return np.sqrt(repeats * positive / (1 + (repeats - 1) * positive))


def _removals(trained: pd.DataFrame, queries: pd.DataFrame, correct: np.ndarray) -> Iterator[pd.DataFrame]:
    for cut, chosen in cuts(queries, correct):
        means = trained.assign(loss=[np.asarray(losses)[chosen].mean() for losses in trained["loss_nats"]])
        wide = means.pivot(index="repeat", columns="name", values="loss")
        if RANDOM not in wide:
            continue
        more = wide.drop(columns=RANDOM).sub(wide[RANDOM], axis=0)
        keys = cut | {"interval_over": "seeds"}
        yield comparison.over_seeds(more).assign(metric="removal_loss", **keys)
        yield comparison.differences_over_seeds(more).assign(metric="removal_loss_difference", **keys)


def cuts(queries: pd.DataFrame, correct: np.ndarray) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Group, depth and ``query_set`` (`all`, or `correct`), as in the summary, and which queries they are."""
    whole = [({"group": "all", "depth": "all"}, np.ones(len(queries), dtype=bool))]
    for (group, depth), rows in queries.reset_index(drop=True).groupby(["group", "depth"], sort=True):
        chosen = np.zeros(len(queries), dtype=bool)
        chosen[rows.index] = True
        whole.append(({"group": group, "depth": str(depth)}, chosen))
    for keys, chosen in whole:
        yield keys | {"query_set": "all"}, chosen
        known = chosen & correct
        if known.any() and not known[chosen].all():
            yield keys | {"query_set": "correct"}, known
