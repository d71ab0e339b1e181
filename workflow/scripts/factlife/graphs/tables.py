"""Tables of attribution graphs; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from factlife import stats

GRAPH_KEYS = ["model", "seed", "attribution_target", "setting", "predictor", "feature_set", "steering_factor"]
SETTINGS = ["linear", "replacement", "frozen", "unfrozen"]
N_INFLUENTIAL = 30
_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
_SCORES = [
    "replacement_score", "completeness_score", "active_features", "omitted_features", "nodes_after_pruning", "edges_after_pruning",
    "max_logit_error", "max_row_error", "recalled",
]  # fmt: skip


def read_tables(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Concatenate tables; empty if there are none."""
    return pd.concat([pd.DataFrame(), *map(pd.read_parquet, paths)], ignore_index=True)


def summarise_graphs(scores: pd.DataFrame, interventions: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Scores of graphs, and how well the graphs predict interventions, with intervals over facts.

    Args:
        scores: one row per model, seed, fact and attribution target.
        interventions: one row per intervention.
        resamples: bootstrap resamples of subjects.

    Returns:
        ``GRAPH_KEYS`` and tidy columns. ``predictor`` is ``total`` (effects along all paths of the graph), ``direct``
        (edges to the target only) or ``shuffled`` (the control: the prediction for another feature of the graph).
        ``feature_set`` is ``all``, ``pruned_graph`` (features that remain after pruning) or ``influential`` (the 30
        with the largest predicted effects). ``pearson``, ``slope`` (of measured on predicted change) and
        ``sign_agreement`` are means over facts. ``effect_over_random`` is the mean absolute effect over that of random
        directions of the same length at the same layers and positions.
    """
    if scores.empty:
        return pd.DataFrame(columns=[*GRAPH_KEYS, *_TIDY])
    rows = []
    for (model, seed, target), group in scores.groupby(["model", "seed", "attribution_target"], sort=False):
        keys = dict.fromkeys(GRAPH_KEYS, "") | {"model": model, "seed": seed, "attribution_target": target}
        values = group[_SCORES].to_numpy(dtype=float)
        rows.append(
            stats.summary_rows(keys, _SCORES, stats.cluster_bootstrap(values, _subjects(group), resamples=resamples))
        )
    for (model, seed, target, factor), group in interventions.groupby(
        ["model", "seed", "attribution_target", "steering_factor"], sort=False
    ):
        for name, subset in _feature_sets(group):
            keys = {
                "model": model, "seed": seed, "attribution_target": target, "setting": "", "predictor": "",
                "feature_set": name, "steering_factor": factor,
            }  # fmt: skip
            rows += _prediction_rows(subset, keys, resamples)
    return pd.concat(rows, ignore_index=True)


def _feature_sets(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "all", table
    yield "pruned_graph", table[table["in_pruned_graph"]]
    rank = table["predicted"].abs().groupby(table["fact_id"]).rank(ascending=False, method="first")
    yield "influential", table[rank <= N_INFLUENTIAL]


def _prediction_rows(table: pd.DataFrame, keys: dict, resamples: int) -> list[pd.DataFrame]:
    rng = np.random.default_rng(0)
    shuffled = table.groupby("fact_id")["predicted"].transform(lambda column: rng.permutation(column.to_numpy()))
    predicted = {"total": table["predicted"], "direct": table["predicted_direct"], "shuffled": shuffled}
    metrics = ["pearson", "slope", "sign_agreement"]
    rows = []
    for setting in SETTINGS:
        for name, column in predicted.items():
            pairs = pd.DataFrame({"x": column, "y": table[setting], "fact_id": table["fact_id"]})
            by_fact = pairs.groupby("fact_id", sort=False)[["x", "y"]].apply(_agreement).reset_index()
            values = by_fact[metrics].to_numpy(dtype=float)
            interval = stats.cluster_bootstrap(values, _subjects(by_fact), resamples=resamples)
            rows.append(stats.summary_rows(keys | {"setting": setting, "predictor": name}, metrics, interval))
    for setting in ("frozen", "unfrozen"):
        sizes = table[[setting, f"random_{setting}"]].abs().groupby(table["fact_id"], sort=False).sum().reset_index()
        interval = stats.cluster_bootstrap_ratio(
            sizes[[setting]].to_numpy(), sizes[[f"random_{setting}"]].to_numpy(), _subjects(sizes), resamples=resamples
        )
        rows.append(stats.summary_rows(keys | {"setting": setting}, ["effect_over_random"], interval))
    return rows


def _agreement(pairs: pd.DataFrame) -> pd.Series:
    x, y = pairs["x"].to_numpy(dtype=float), pairs["y"].to_numpy(dtype=float)
    if len(x) < 3 or not x.std() or not y.std():
        return pd.Series({"pearson": np.nan, "slope": np.nan, "sign_agreement": np.nan})
    covariance = np.cov(x, y)
    return pd.Series(
        {
            "pearson": covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]),
            "slope": covariance[0, 1] / covariance[0, 0],
            "sign_agreement": float((np.sign(x) == np.sign(y)).mean()),
        }
    )


def _subjects(table: pd.DataFrame) -> np.ndarray:
    return table["fact_id"].str.split(".").str[0].to_numpy()
