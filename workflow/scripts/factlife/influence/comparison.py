"""Rankers against one another: differences on the same queries, subsets and seeds, with corrected p."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm, ttest_1samp

from factlife import stats

Resampled = tuple[np.ndarray, np.ndarray]
_ENDS = [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]
_PAIR = ["ranker", "other_ranker", "n", "estimate", "ci_low", "ci_high", "p"]


def intervals(found: Mapping[str, Resampled]) -> pd.DataFrame:
    """One row a ranker, ``ranker, estimate, ci_low, ci_high``, from its estimate and that of every resample."""
    rows = [(name, estimate, *np.quantile(resamples, _ENDS)) for name, (estimate, resamples) in found.items()]
    return pd.DataFrame(rows, columns=["ranker", "estimate", "ci_low", "ci_high"])


# Fewer subjects than these do not say how much their mean varies.
_FEWEST = 6


def differences(found: Mapping[str, Resampled], clusters: int) -> pd.DataFrame:
    """One row a pair of rankers: the first less the second, with percentile interval, p, and Holm's p over all pairs.

    A paired bootstrap: number i of both rankers' resamples drew the same. p is of a normal distribution with the resamples'
    standard deviation (Efron and Tibshirani 1993, chapter 13), since shares of resamples are too coarse for Holm's bound.

    Args:
        found: estimate and resamples of each ranker.
        clusters: how many subjects were resampled; for fewer than six there is no p.

    Returns:
        ``ranker, other_ranker, estimate, ci_low, ci_high, p, p_corrected``.
    """
    rows = []
    for one, other in itertools.combinations(found, 2):
        estimate, resamples = (left - right for left, right in zip(found[one], found[other], strict=True))
        deviation = resamples.std(ddof=1)
        p = 2 * norm.sf(abs(estimate) / deviation) if deviation else 1.0 if estimate == 0 else np.nan
        p = p if clusters >= _FEWEST else np.nan
        rows.append((one, other, None, estimate, *np.quantile(resamples, _ENDS), p))
    return _corrected(rows).drop(columns="n")


def over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """One row a ranker: mean over seeds with Student's interval, ``ranker, n, estimate, ci_low, ci_high``.

    Args:
        values: one row a seed, one column a ranker.
    """
    n, mean = values.count(), values.mean()
    low, high = stats.seed_interval(mean, values.std(), n)
    return pd.DataFrame({"ranker": mean.index, "n": n, "estimate": mean, "ci_low": low, "ci_high": high})


def differences_over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of rankers: mean difference over the seeds that both have, with Student's interval, p and Holm's p.

    Returns:
        ``ranker, other_ranker, n, estimate, ci_low, ci_high, p, p_corrected``.
    """
    rows = []
    for one, other in itertools.combinations(values.columns, 2):
        less = (values[one] - values[other]).dropna()
        low, high = stats.seed_interval(less.mean(), less.std(), pd.Series(len(less)))
        p = ttest_1samp(less, 0).pvalue if less.std() > 0 else 1.0 if (less == 0).all() and len(less) > 1 else np.nan
        rows.append((one, other, len(less), less.mean(), low.item(), high.item(), p))
    return _corrected(rows)


def _corrected(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_PAIR)
    return table.assign(p_corrected=stats.holm(table["p"]))
