"""Dynamics: experiments on how models learn, generalise and forget facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from factlife.dynamics.comparison import compare_experiments
from factlife.world.tables import read_table


def read_dynamics(path: str | Path) -> pd.DataFrame:
    """Read the table written from ``compare_experiments``."""
    return pd.read_csv(path, dtype={"seed": str, "group": str, "factors": str}).fillna({"group": "", "factors": ""})


def entities_by_model(paths: Iterable[str | Path], worlds: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """The entities of each model's world, from files ``…/{world}/entities.parquet``."""
    tables = {Path(path).parent.name: read_table(path) for path in paths}
    return {model: tables[world] for model, world in worlds.items()}


__all__ = ["compare_experiments", "entities_by_model", "read_dynamics"]
