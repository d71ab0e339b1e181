"""One tidy table of effects by token role and layer, and the queries that other stages make."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from factlife import stats

KEYS = ["model", "seed", "corruption", "component", "window", "token_role", "layer"]
_CELL = ["corruption", "component", "window", "token_role", "layer"]
_EFFECTS = ["indirect_effect", "indirect_effect_logit_diff"]
_TOTALS = ["total_effect", "total_effect_logit_diff"]


def read_traces(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read and concatenate the traces of several models."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def read_summary(path: str | Path) -> pd.DataFrame:
    """Read the summary ``results/tables/tracing.csv``."""
    dtypes = {"window": "Int64", "layer": "Int64"}
    return pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values={column: [""] for column in dtypes})


def summarise_traces(traces: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Mean effects by token role, with intervals over subjects.

    Args:
        traces: tables from ``trace_facts``; unknown facts count only for a model that knows none.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``model, seed, corruption, component, window, token_role, layer``. The metrics
        ``indirect_effect`` (on the answer's probability) and ``indirect_effect_logit_diff`` (on its logit minus the other
        answer's) average over the role's tokens, then over facts; ``total_effect`` and ``total_effect_logit_diff`` are
        the clean minus the corrupted run. ``n`` counts facts; ``known`` tells whether the model knows them.
    """
    tables = []
    for (model, seed), rows in traces[traces["exclusion_reason"].isna()].groupby(["model", "seed"], sort=False):
        use_known = bool(rows["known"].any())
        rows = rows[rows["known"] == use_known]
        rows = rows.assign(
            total_effect=rows["clean_probability"] - rows["corrupted_probability"],
            total_effect_logit_diff=rows["clean_logit_diff"] - rows["corrupted_logit_diff"],
        )
        by_cell = rows.pivot_table(index="fact_id", columns=_CELL, values=_EFFECTS, aggfunc="mean", sort=False)
        totals = rows.pivot_table(index="fact_id", columns="corruption", values=_TOTALS, aggfunc="first", sort=False)
        for effects, columns in ((totals, ["corruption"]), (by_cell, _CELL)):
            subjects = effects.index.str.split(".").str[0].to_numpy()
            interval = stats.cluster_bootstrap(effects.to_numpy(float), subjects, resamples=resamples)
            table = stats.summary_rows({}, effects.columns.get_level_values(0), interval)
            for level, column in enumerate(columns, 1):
                table[column] = effects.columns.get_level_values(level)
            tables.append(table.assign(model=model, seed=seed, known=use_known))
    frame = pd.concat([pd.DataFrame(columns=[*KEYS, *_COLUMNS]), *tables])[[*KEYS, *_COLUMNS]]
    return frame.astype({"window": "Int64", "layer": "Int64"})


_COLUMNS = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over", "known"]


def peak_location(
    table: pd.DataFrame,
    model: str,
    *,
    component: str = "mlp",
    corruption: str = "replacement",
    metric: str = "indirect_effect_logit_diff",
    seed: int | None = None,
) -> tuple[str, int]:
    """Token role and layer with the largest indirect effect of one component.

    Args:
        table: the summary, ``results/tables/tracing.csv``.
        model: name of the model.
        component: restored component; most editors change MLPs.
        corruption: corruption of the runs.
        metric: ``indirect_effect`` or ``indirect_effect_logit_diff``.
        seed: seed of the model; by default the mean over seeds.

    Raises:
        KeyError: the table has no such rows.
    """
    selection = {"model": model, "component": component, "corruption": corruption, "metric": metric, "window": 1}
    rows = table[(table[list(selection)] == pd.Series(selection)).all(axis=1)]
    rows = rows if seed is None else rows[rows["seed"] == seed]
    if rows.empty:
        raise KeyError(f"the tracing table has no rows with {selection}; trace the model first")
    role, layer = rows.groupby(["token_role", "layer"])["estimate"].mean().idxmax()
    return str(role), int(layer)
