"""Editing: new values for facts, written into weights; what comes of them, and whether they last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from factlife.editing.summary import summarise_metrics, summarise_probes, summarise_survival


def read_edits(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Verdicts on edits of several models and editors, one after the other."""
    return pd.concat([pd.read_parquet(Path(folder) / "edits.parquet") for folder in folders], ignore_index=True)


def build_edits_table(folders: Iterable[str | Path], tasks: Iterable[str | Path], *, resamples: int) -> pd.DataFrame:
    """The summary of all verdicts and measures, with answers to downstream tasks."""
    paths = [*(Path(folder) / "metrics.parquet" for folder in folders), *tasks]
    metrics = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    return pd.concat(
        [summarise_probes(read_edits(folders), resamples=resamples), summarise_metrics(metrics, resamples=resamples)],
        ignore_index=True,
    )


def read_survival(paths: Iterable[str | Path]) -> pd.DataFrame:
    """What became of edits of several models and editors, one after the other."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def read_edit_sites(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Where several models can be edited, one after the other."""
    blanks = {column: [""] for column in ("layer", "estimate", "ci_low", "ci_high")}
    return pd.concat(
        [pd.read_csv(path, dtype={"layer": "Int64"}, keep_default_na=False, na_values=blanks) for path in paths],
        ignore_index=True,
    )


__all__ = [
    "build_edits_table",
    "read_edit_sites",
    "read_edits",
    "read_survival",
    "summarise_metrics",
    "summarise_probes",
    "summarise_survival",
]
