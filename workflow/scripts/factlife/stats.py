"""Bootstrap intervals over clusters, intervals over seeds, and corrections for multiple tests."""

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

    Whole clusters are sampled with replacement, because items of one subject are not independent.

    Args:
        values: (items, columns); NaN excludes an item from a column.
        clusters: (items,), the cluster of each item.
        resamples: bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        Number of items, mean and 95 % interval of each column; NaN if a column has no item.
    """
    values = np.asarray(values, dtype=float)
    estimate, means = bootstrap_means(values, clusters, resamples=resamples, seed=seed)
    present = ~np.isnan(values)
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    if (has_items := present.any(0)).any():
        low[has_items], high[has_items] = _quantiles(means[:, has_items])
    return Interval(present.sum(0), estimate, low, high)


def bootstrap_means(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Means (columns,) and their bootstrap resamples (resamples, columns), for statistics computed from means.

    Resamples clusters as ``cluster_bootstrap`` does. Two calls with equally many clusters in the same order draw the
    same clusters, so the difference of their resamples is a paired bootstrap.
    """
    values = np.asarray(values, dtype=float)
    codes, names = pd.factorize(clusters)
    present = ~np.isnan(values)
    sums = np.zeros((len(names), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, codes, np.where(present, values, 0.0))
    np.add.at(counts, codes, present)
    rng = np.random.default_rng(seed)
    draws = (
        rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        if len(names)
        else np.zeros((0, 0))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.sum(0) / counts.sum(0), (draws @ sums) / (draws @ counts)


def seed_interval(mean: pd.Series, std: pd.Series, n: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Student's t interval of a mean over seeds, from standard deviation and count; NaN for fewer than two seeds."""
    half = stdtrit((n - 1).clip(lower=1), (1 + LEVEL) / 2) * std / np.sqrt(n)
    return mean - half, mean + half


def cluster_bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int = 0
) -> Interval:
    """Ratios of sums, Σ numerator / Σ denominator, with percentile intervals over resampled clusters.

    Args:
        numerator: (items, columns); NaN excludes an item from a column.
        denominator: (items, columns).
        clusters: (items,), the cluster of each item.
        resamples: bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        Number of items, ratio and 95 % interval of each column; NaN if the denominator sums to 0.
    """
    codes, names = pd.factorize(clusters)
    present = ~(np.isnan(numerator) | np.isnan(denominator))
    sums = np.zeros((2, len(names), numerator.shape[1]))
    np.add.at(sums[0], codes, np.where(present, numerator, 0.0))
    np.add.at(sums[1], codes, np.where(present, denominator, 0.0))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (draws @ sums[0]) / (draws @ sums[1])
        estimate = sums[0].sum(0) / sums[1].sum(0)
    low, high = np.full(numerator.shape[1], np.nan), np.full(numerator.shape[1], np.nan)
    if (is_finite := np.isfinite(estimate)).any():
        low[is_finite], high[is_finite] = _quantiles(ratios[:, is_finite])
    return Interval(present.sum(0), estimate, low, high)


def _quantiles(means: np.ndarray) -> np.ndarray:
    """Limits of the interval by column; ignores resamples without items of a column."""
    levels = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return np.nanquantile(means, levels, axis=0) if np.isnan(means).any() else np.quantile(means, levels, axis=0)


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
    for i, (column, value) in enumerate(keys.items()):
        rows.insert(i, column, value)
    return rows[rows["n"] > 0]


def holm(p_values: pd.Series) -> pd.Series:
    """Apply Holm's correction to p values (Holm 1979); NaN stays NaN and does not count."""
    # Imported here because it takes half a second and few jobs need it.
    from statsmodels.stats.multitest import multipletests

    present = p_values.dropna().astype(float)
    return pd.Series(multipletests(present, method="holm")[1] if len(present) else [], present.index, float).reindex(
        p_values.index
    )
