"""Dynamics: experiments on how facts are learned, interfere, generalise and fade."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from factlife.dynamics.compare import compare
from factlife.world.tables import read_table as read_parquet


def read_table(path: str | Path) -> pd.DataFrame:
    """The table that ``compare`` made."""
    return pd.read_csv(path, dtype={"seed": str, "group": str, "factors": str}).fillna({"group": "", "factors": ""})


def entities(paths: Iterable[str | Path], worlds: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """For each model the entities of its world, from files ``…/{world}/entities.parquet``."""
    tables = {Path(path).parent.name: read_parquet(path) for path in paths}
    return {model: tables[world] for model, world in worlds.items()}


__all__ = ["compare", "entities", "read_table"]
