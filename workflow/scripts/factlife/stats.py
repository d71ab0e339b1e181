"""Intervals: bootstrap over clusters of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Estimates with percentile intervals, one entry per column of the values."""

    n: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def cluster_bootstrap(values: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int = 0) -> Interval:
    """Means with percentile intervals over resampled clusters (Efron and Tibshirani 1993, chapter 13).

    Whole clusters are drawn with replacement, because items of one subject are not independent of each other.

    Args:
        values: (items, columns); NaN where an item has no value, which leaves it out of that column.
        clusters: (items,), the cluster of each item.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Number of items, mean and 95 % interval of each column; NaN where a column has no item.
    """
    values = np.asarray(values, dtype=float)
    estimate, means = bootstrap_means(values, clusters, resamples=resamples, seed=seed)
    there = ~np.isnan(values)
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    if (known := there.any(0)).any():
        low[known], high[known] = _quantiles(means[:, known])
    return Interval(there.sum(0), estimate, low, high)


def bootstrap_means(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The means (columns,) and their bootstrap resamples (resamples, columns), for numbers that follow from means.

    As in ``cluster_bootstrap``. Two calls draw the same clusters where both have as many, in the same order: the
    difference of their resamples is then that of a paired bootstrap.
    """
    values = np.asarray(values, dtype=float)
    codes, names = pd.factorize(clusters)
    there = ~np.isnan(values)
    sums = np.zeros((len(names), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, codes, np.where(there, values, 0.0))
    np.add.at(counts, codes, there)
    rng = np.random.default_rng(seed)
    draws = (
        rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        if len(names)
        else np.zeros((0, 0))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.sum(0) / counts.sum(0), (draws @ sums) / (draws @ counts)


def seed_interval(mean: pd.Series, std: pd.Series, n: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Student's t interval of a mean over seeds, from their standard deviation and number; empty below two seeds."""
    half = stdtrit((n - 1).clip(lower=1), (1 + LEVEL) / 2) * std / np.sqrt(n)
    return mean - half, mean + half


def cluster_bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int = 0
) -> Interval:
    """Ratios of sums, Σ numerator / Σ denominator, with percentile intervals over resampled clusters.

    Args:
        numerator: (items, columns); an item with NaN is left out of that column.
        denominator: (items, columns).
        clusters: (items,), the cluster of each item.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Number of items, ratio and 95 % interval of each column; NaN where the denominator's sum is 0.
    """
    codes, names = pd.factorize(clusters)
    there = ~(np.isnan(numerator) | np.isnan(denominator))
    sums = np.zeros((2, len(names), numerator.shape[1]))
    np.add.at(sums[0], codes, np.where(there, numerator, 0.0))
    np.add.at(sums[1], codes, np.where(there, denominator, 0.0))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (draws @ sums[0]) / (draws @ sums[1])
        estimate = sums[0].sum(0) / sums[1].sum(0)
    low, high = np.full(numerator.shape[1], np.nan), np.full(numerator.shape[1], np.nan)
    if (known := np.isfinite(estimate)).any():
        low[known], high[known] = _quantiles(ratios[:, known])
    return Interval(there.sum(0), estimate, low, high)


def _quantiles(means: np.ndarray) -> np.ndarray:
    """Ends of the interval, per column; a resample that drew no item of a column counts for nothing."""
    at = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return np.nanquantile(means, at, axis=0) if np.isnan(means).any() else np.quantile(means, at, axis=0)


def summary_rows(
    keys: dict[str, object], metrics: list[str], interval: Interval, *, interval_over: str = "facts"
) -> pd.DataFrame:
    """Rows of a summary: key columns, then ``metric, n, estimate, ci_low, ci_high, interval_over``."""
    rows = pd.DataFrame(
        {
            "metric": metrics,
            "n": interval.n,
            "estimate": interval.estimate,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "interval_over": interval_over,
        }
    )
    for place, (column, value) in enumerate(keys.items()):
        rows.insert(place, column, value)
    return rows[rows["n"] > 0]


def holm(p_values: pd.Series) -> pd.Series:
    """Holm's correction over those p that there are (Holm 1979)."""
    # Costs half a second to import, and few jobs need it.
    from statsmodels.stats.multitest import multipletests

    known = p_values.dropna().astype(float)
    return pd.Series(multipletests(known, method="holm")[1] if len(known) else [], known.index, float).reindex(
        p_values.index
    )
