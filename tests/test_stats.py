"""Intervals against SciPy's, and what must hold for any numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from factlife import stats

ITEMS = st.lists(
    st.tuples(st.integers(0, 6), st.one_of(st.just(np.nan), st.floats(-100, 100))), min_size=1, max_size=40
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(ITEMS)
def test_interval_lies_within_the_values_and_counts_them(items):
    clusters, values = (np.array(column) for column in zip(*items, strict=True))
    found = stats.cluster_bootstrap(np.stack([values, np.zeros(len(values))], 1), clusters, resamples=200)

    known = values[~np.isnan(values)]
    assert found.n.tolist() == [len(known), len(values)]
    assert (found.estimate[1], found.low[1], found.high[1]) == (0, 0, 0)
    if not len(known):
        assert np.isnan([found.estimate[0], found.low[0], found.high[0]]).all()
        return
    assert found.estimate[0] == pytest.approx(known.mean(), abs=1e-9)
    assert known.min() - 1e-9 <= found.low[0] <= found.high[0] <= known.max() + 1e-9


@pytest.mark.parametrize(
    "values", [np.random.default_rng(1).normal(size=60), np.random.default_rng(2).random(80) < 0.3]
)
def test_interval_of_singletons_is_that_of_scipy_and_contains_the_estimate(values):
    values = values.astype(float)
    found = stats.cluster_bootstrap(values[:, None], np.arange(len(values)), resamples=20000)
    wanted = bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = wanted.high - wanted.low
    np.testing.assert_allclose([found.low[0], found.high[0]], wanted, atol=0.03 * width)
    assert found.low[0] < found.estimate[0] < found.high[0]


def test_interval_over_clusters_resamples_whole_clusters(monkeypatch):
    """Against drawing clusters one by one and concatenating their items."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    values = rng.normal(size=len(clusters)) + clusters / 4
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 12, 12)
        means.append(np.concatenate([values[clusters == cluster] for cluster in drawn]).mean())
    low, high = np.quantile(means, [0.025, 0.975])

    found = stats.cluster_bootstrap(values[:, None], clusters.astype(str), resamples=4000)

    np.testing.assert_allclose([found.low[0], found.high[0]], [low, high], atol=0.05 * (high - low))


def test_same_seed_same_interval_and_columns_share_their_resamples():
    values = np.random.default_rng(0).normal(size=(30, 1))
    clusters = np.arange(30) // 3
    one = stats.cluster_bootstrap(values, clusters, resamples=50, seed=3)
    both = stats.cluster_bootstrap(np.hstack([values, 2 * values]), clusters, resamples=50, seed=3)
    other = stats.cluster_bootstrap(values, clusters, resamples=50, seed=4)
    assert (both.low[0], both.high[0]) == (pytest.approx(one.low[0]), pytest.approx(one.high[0]))
    assert both.low[1] == pytest.approx(2 * one.low[0])
    assert other.low[0] != one.low[0]


def test_no_items_give_no_interval():
    found = stats.cluster_bootstrap(np.zeros((0, 2)), np.array([]), resamples=10)
    assert found.n.tolist() == [0, 0] and np.isnan(found.low).all() and np.isnan(found.estimate).all()


def test_tidy_leaves_out_what_has_no_items():
    interval = stats.Interval(
        np.array([2, 0]), np.array([0.5, np.nan]), np.array([0.0, np.nan]), np.array([1.0, np.nan])
    )
    table = stats.summary_rows({"model": "m", "seed": 0}, ["loss", "rank"], interval)
    expected = pd.DataFrame(
        [["m", 0, "loss", 2, 0.5, 0.0, 1.0, "facts"]],
        columns=["model", "seed", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over"],
    )
    pd.testing.assert_frame_equal(table, expected)
