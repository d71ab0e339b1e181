"""Recall: the probe engine, with which every stage tests a model on facts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from factlife.recall.summary import summarise_recall


def read_recall(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read and concatenate the scores of several models."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def read_recall_summary(path: str | Path) -> pd.DataFrame:
    """Read the table that ``summarise_recall`` returned."""
    return pd.read_csv(path, dtype={"exposures": str})


def read_training_curves(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read training curves ``…/{model}/seed-{seed}.training.csv``, with columns ``model`` and ``seed``."""
    columns = ["model", "seed", "exposures", "loss"]
    curves = [
        pd.read_csv(path).assign(model=Path(path).parent.name, seed=Path(path).name.split(".")[0].removeprefix("seed-"))
        for path in paths
    ]
    return pd.concat([pd.DataFrame(columns=columns), *curves], ignore_index=True)


__all__ = ["read_recall", "read_recall_summary", "read_training_curves", "summarise_recall"]
