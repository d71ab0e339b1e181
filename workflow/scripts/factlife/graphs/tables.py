"""Tables of attribution graphs; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from factlife import stats

GRAPH_KEYS = ["model", "seed", "attribution_target", "setting", "predictor", "feature_set", "steering_factor"]
SETTINGS = ["linear", "replacement", "frozen", "unfrozen"]
INFLUENTIAL = 30
_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
_SCORES = [
    "replacement_score", "completeness_score", "active_features", "omitted_features", "nodes_after_pruning", "edges_after_pruning",
    "max_logit_error", "max_row_error", "recalled",
]  # fmt: skip


def read_tables(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Tables one below the other; nothing where there is none."""
    return pd.concat([pd.DataFrame(), *map(pd.read_parquet, paths)], ignore_index=True)


def summarise_graphs(scores: pd.DataFrame, interventions: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Scores of graphs, and how well they predict interventions, with intervals over facts.

    Args:
        scores: of every graph, a row per model, seed, fact and what is explained.
        interventions: a row per intervention besides.
        resamples: of subjects.

    Returns:
        ``GRAPH_KEYS`` and tidy columns. ``predictor`` is ``total`` (through the whole graph), ``direct`` (edges to the
        target alone) or ``shuffled`` (the prediction for another feature of the graph, the control); ``features`` are
        all that were changed, those ``shown``, or the 30 most ``influential`` by prediction. ``pearson``, ``slope`` (of
        the measured on the predicted change) and ``sign_agreement`` are means over facts; ``effect_over_random`` is the
        mean size of measured changes over that of random directions as long, in the same places.
    """
    if scores.empty:
        return pd.DataFrame(columns=[*GRAPH_KEYS, *_TIDY])
    rows = []
    for (model, seed, explained), one in scores.groupby(["model", "seed", "attribution_target"], sort=False):
        keys = dict.fromkeys(GRAPH_KEYS, "") | {"model": model, "seed": seed, "attribution_target": explained}
        values = one[_SCORES].to_numpy(dtype=float)
        rows.append(stats.tidy(keys, _SCORES, stats.cluster_bootstrap(values, _subjects(one), resamples=resamples)))
    for (model, seed, explained, multiple), one in interventions.groupby(
        ["model", "seed", "attribution_target", "steering_factor"], sort=False
    ):
        for name, some in _selections(one):
            keys = {
                "model": model, "seed": seed, "attribution_target": explained, "setting": "", "predictor": "", "feature_set": name,
                "steering_factor": multiple,
            }  # fmt: skip
            rows += _predictions(some, keys, resamples)
    return pd.concat(rows, ignore_index=True)


def _selections(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "all", table
    yield "pruned_graph", table[table["in_pruned_graph"]]
    size = table["predicted"].abs().groupby(table["fact_id"]).rank(ascending=False, method="first")
    yield "influential", table[size <= INFLUENTIAL]


def _predictions(table: pd.DataFrame, keys: dict, resamples: int) -> list[pd.DataFrame]:
    rng = np.random.default_rng(0)
    shuffled = table.groupby("fact_id")["predicted"].transform(lambda column: rng.permutation(column.to_numpy()))
    predicted = {"total": table["predicted"], "direct": table["predicted_direct"], "shuffled": shuffled}
    rows = []
    for setting in SETTINGS:
        for name, column in predicted.items():
            pairs = pd.DataFrame({"x": column, "y": table[setting], "fact_id": table["fact_id"]})
            each = pairs.groupby("fact_id", sort=False)[["x", "y"]].apply(_agreement).reset_index()
            values = each[["pearson", "slope", "sign_agreement"]].to_numpy(dtype=float)
            interval = stats.cluster_bootstrap(values, _subjects(each), resamples=resamples)
            rows.append(
                stats.tidy(
                    keys | {"setting": setting, "predictor": name}, ["pearson", "slope", "sign_agreement"], interval
                )
            )
    for setting in ("frozen", "unfrozen"):
        sizes = table[[setting, f"random_{setting}"]].abs().groupby(table["fact_id"], sort=False).sum().reset_index()
        interval = stats.ratio_bootstrap(
            sizes[[setting]].to_numpy(), sizes[[f"random_{setting}"]].to_numpy(), _subjects(sizes), resamples=resamples
        )
        rows.append(stats.tidy(keys | {"setting": setting}, ["effect_over_random"], interval))
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
