"""Select rows from summary tables and format their estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

Tables = Mapping[str, pd.DataFrame]


class NotMeasuredError(LookupError):
    """The tables of this run lack the requested rows."""


def read_tables(paths: Sequence[str | Path]) -> Tables:
    """Read summary tables, by file name without suffix."""
    return {Path(path).stem: pd.read_csv(path, dtype={"exposures": str, "depth": str, "seed": str}) for path in paths}


def get_table(tables: Tables, name: str) -> pd.DataFrame:
    """The summary table with this name."""
    if name not in tables or tables[name].empty:
        raise NotMeasuredError(name)
    return tables[name]


def select_rows(table: pd.DataFrame, **keys: object) -> pd.DataFrame:
    """Rows with these values; at least one must exist."""
    for column, value in keys.items():
        table = table[table[column] == value]
    if table.empty:
        raise NotMeasuredError(str(keys))
    return table


def first_row(table: pd.DataFrame, **keys: object) -> pd.Series:
    """The first row with these values."""
    return select_rows(table, **keys).iloc[0]


def select_first(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows with the first value of each of these columns, such as the first model and seed."""
    for column in columns:
        table = table[table[column] == table[column].iloc[0]]
    return table


def pooled_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows pooled over seeds, or those of the first seed if there are none."""
    all_seeds = table[table["seed"] == "all"]
    return all_seeds if len(all_seeds) else select_first(table, "seed")


def ranker_difference(tables: Tables, metric: str, ranker: str, other_ranker: str, **keys: object) -> Mapping[str, Any]:
    """A ranker's metric minus another's on the same queries, for the first model and seed with both."""
    table = select_rows(
        get_table(tables, "influence"), metric=f"{metric}_difference", query_set="all", depth="all", group="all"
    )
    table = table[table["ranker"].isin([ranker, other_ranker]) & table["other_ranker"].isin([ranker, other_ranker])]
    table = table[table["relevance"] != "ancestors"]
    row = first_row(table, **keys)
    if row["ranker"] == ranker:
        return row.to_dict()
    negated = {"estimate": -row["estimate"], "ci_low": -row["ci_high"], "ci_high": -row["ci_low"]}
    return row.to_dict() | negated | {"ranker": ranker, "other_ranker": other_ranker}


def format_estimate(row: Mapping[str, float] | pd.Series, digits: int = 2) -> str:
    """Estimate and interval."""
    return f"{row['estimate']:.{digits}f} ({row['ci_low']:.{digits}f} to {row['ci_high']:.{digits}f})"


def format_percent(row: Mapping[str, float] | pd.Series) -> str:
    """Estimate and interval in percent."""
    estimate, low, high = (100 * row[name] for name in ("estimate", "ci_low", "ci_high"))
    return f"{estimate:.0f} % ({low:.0f} to {high:.0f})"
