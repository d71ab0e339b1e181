"""Editing: new values for facts, written into the weights; their effects, and whether they survive fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from factlife.editing.summary import summarise_metrics, summarise_probes, summarise_survival


def read_edits(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Results per probe of several models and editors, concatenated."""
    return pd.concat([pd.read_parquet(Path(folder) / "edits.parquet") for folder in folders], ignore_index=True)


def build_edits_table(folders: Iterable[str | Path], tasks: Iterable[str | Path], *, resamples: int) -> pd.DataFrame:
    """The summary of all probes, metrics and answers to downstream tasks."""
    paths = [*(Path(folder) / "metrics.parquet" for folder in folders), *tasks]
    metrics = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    summaries = [
        summarise_probes(read_edits(folders), resamples=resamples),
        summarise_metrics(metrics, resamples=resamples),
    ]
    return pd.concat(summaries, ignore_index=True)


def read_survival(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Results per fact after fine-tuning of several models and editors, concatenated."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def read_edit_sites(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Edit sites of several models, concatenated."""
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
