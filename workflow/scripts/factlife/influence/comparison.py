"""Pairwise comparison of rankers on the same queries, subsets and seeds, with corrected p-values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm, ttest_1samp

from factlife import stats

# The estimate, and its value in every resample.
Resampled = tuple[np.ndarray, np.ndarray]
_QUANTILES = [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]
_COLUMNS = ["ranker", "other_ranker", "n", "estimate", "ci_low", "ci_high", "p"]


def intervals(resampled: Mapping[str, Resampled]) -> pd.DataFrame:
    """Percentile intervals, one row per ranker: ``ranker, estimate, ci_low, ci_high``."""
    rows = [(ranker, estimate, *np.quantile(draws, _QUANTILES)) for ranker, (estimate, draws) in resampled.items()]
    return pd.DataFrame(rows, columns=["ranker", "estimate", "ci_low", "ci_high"])


# With fewer subjects, the variance of their mean cannot be estimated.
_MIN_SUBJECTS = 6


def differences(resampled: Mapping[str, Resampled], n_subjects: int) -> pd.DataFrame:
    """One row per pair of rankers: first minus second, with percentile interval, p, and Holm-corrected p over all pairs.

    This is a paired bootstrap: the i-th resample of both rankers uses the same draw. p assumes a normal distribution with
    the standard deviation of the resamples (Efron and Tibshirani 1993, chapter 13), since fractions of resamples are too
    coarse for Holm's bound.

    Args:
        resampled: estimate and resamples of each ranker.
        n_subjects: number of subjects that were resampled; p is NaN for fewer than six.

    Returns:
        ``ranker, other_ranker, estimate, ci_low, ci_high, p, p_corrected``.
    """
    rows = []
    for ranker, other_ranker in itertools.combinations(resampled, 2):
        estimate, draws = (
            minuend - subtrahend for minuend, subtrahend in zip(resampled[ranker], resampled[other_ranker], strict=True)
        )
        deviation = draws.std(ddof=1)
        p = 2 * norm.sf(abs(estimate) / deviation) if deviation else 1.0 if estimate == 0 else np.nan
        p = p if n_subjects >= _MIN_SUBJECTS else np.nan
        rows.append((ranker, other_ranker, None, estimate, *np.quantile(draws, _QUANTILES), p))
    return _corrected(rows).drop(columns="n")


def over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with Student's t interval, one row per ranker: ``ranker, n, estimate, ci_low, ci_high``.

    Args:
        values: one row per seed, one column per ranker.
    """
    n, mean = values.count(), values.mean()
    low, high = stats.seed_interval(mean, values.std(), n)
    return pd.DataFrame({"ranker": mean.index, "n": n, "estimate": mean, "ci_low": low, "ci_high": high})


def differences_over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of rankers: mean difference over their common seeds, with Student's t interval, p and Holm's p.

    Returns:
        ``ranker, other_ranker, n, estimate, ci_low, ci_high, p, p_corrected``.
    """
    rows = []
    for ranker, other_ranker in itertools.combinations(values.columns, 2):
        difference = (values[ranker] - values[other_ranker]).dropna()
        low, high = stats.seed_interval(difference.mean(), difference.std(), pd.Series(len(difference)))
        if difference.std() > 0:
            p = ttest_1samp(difference, 0).pvalue
        else:
            p = 1.0 if (difference == 0).all() and len(difference) > 1 else np.nan
        rows.append((ranker, other_ranker, len(difference), difference.mean(), low.item(), high.item(), p))
    return _corrected(rows)


def _corrected(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.assign(p_corrected=stats.holm(table["p"]))
