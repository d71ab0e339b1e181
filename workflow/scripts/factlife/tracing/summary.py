"""From effects of every token and layer to one tidy table, and what other stages ask of it."""

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
    """Traces of several models, one after the other."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def read_summary(path: str | Path) -> pd.DataFrame:
    """The summary that ``summarise_traces`` wrote."""
    whole = {"window": "Int64", "layer": "Int64"}
    return pd.read_csv(path, dtype=whole, keep_default_na=False, na_values={column: [""] for column in whole})


def summarise_traces(traces: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Mean effects by token role with intervals over subjects.

    Args:
        traces: of models, as ``trace_facts`` made them; facts that a model does not know count only where it knows none.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``model, seed, corruption, component, window, token_role, layer``. Metrics ``indirect_effect`` (of
        the answer's probability) and ``indirect_effect_logit_diff`` (of its logit minus the other answer's) are means over
        facts of means over the role's tokens; ``total_effect`` and ``total_effect_logit_diff`` are clean minus corrupted
        run. n counts facts; ``known`` says whether the model knows them.
    """
    tables = []
    for (model, seed), rows in traces[traces["exclusion_reason"].isna()].groupby(["model", "seed"], sort=False):
        known = bool(rows["known"].any())
        rows = rows[rows["known"] == known]
        rows = rows.assign(
            total_effect=rows["clean_probability"] - rows["corrupted_probability"],
            total_effect_logit_diff=rows["clean_logit_diff"] - rows["corrupted_logit_diff"],
        )
        cells = rows.pivot_table(index="fact_id", columns=_CELL, values=_EFFECTS, aggfunc="mean", sort=False)
        totals = rows.pivot_table(index="fact_id", columns="corruption", values=_TOTALS, aggfunc="first", sort=False)
        for wide, columns in ((totals, ["corruption"]), (cells, _CELL)):
            subjects = wide.index.str.split(".").str[0].to_numpy()
            interval = stats.cluster_bootstrap(wide.to_numpy(float), subjects, resamples=resamples)
            table = stats.summary_rows({}, wide.columns.get_level_values(0), interval)
            for level, column in enumerate(columns, 1):
                table[column] = wide.columns.get_level_values(level)
            tables.append(table.assign(model=model, seed=seed, known=known))
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
    """The token role and the layer where restoring one layer of a component brings most of the answer back.

    Args:
        table: the summary, ``results/tables/tracing.csv``.
        model: whose facts are located.
        component: what is restored; MLPs are what most editors change.
        corruption: how runs were corrupted.
        metric: ``indirect_effect`` or ``indirect_effect_logit_diff``.
        seed: of the model; the mean over seeds if not given.

    Raises:
        KeyError: the table has no such rows.
    """
    wanted = {"model": model, "component": component, "corruption": corruption, "metric": metric, "window": 1}
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    rows = rows if seed is None else rows[rows["seed"] == seed]
    if rows.empty:
        raise KeyError(f"the table of tracing has no rows with {wanted}; trace the model first")
    role, layer = rows.groupby(["token_role", "layer"])["estimate"].mean().idxmax()
    return str(role), int(layer)
