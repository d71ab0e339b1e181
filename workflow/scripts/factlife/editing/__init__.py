"""Editing: new values for facts, written into weights; what comes of them, and whether they last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from factlife.editing.summary import summarise, summarise_measures, summarise_survival


def read(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Verdicts on edits of several models and editors, one after the other."""
    return pd.concat([pd.read_parquet(Path(folder) / "edits.parquet") for folder in folders], ignore_index=True)


def table(folders: Iterable[str | Path], tasks: Iterable[str | Path], *, resamples: int) -> pd.DataFrame:
    """The summary of all verdicts and measures, with answers to downstream tasks."""
    paths = [*(Path(folder) / "measures.parquet" for folder in folders), *tasks]
    measures = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    return pd.concat(
        [summarise(read(folders), resamples=resamples), summarise_measures(measures, resamples=resamples)],
        ignore_index=True,
    )


def read_survival(paths: Iterable[str | Path]) -> pd.DataFrame:
    """What became of edits of several models and editors, one after the other."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def read_places(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Where several models can be edited, one after the other."""
    blanks = {column: [""] for column in ("layer", "estimate", "ci_low", "ci_high")}
    return pd.concat(
        [pd.read_csv(path, dtype={"layer": "Int64"}, keep_default_na=False, na_values=blanks) for path in paths],
        ignore_index=True,
    )


__all__ = [
    "read",
    "read_places",
    "read_survival",
    "summarise",
    "summarise_measures",
    "summarise_survival",
    "table",
]
