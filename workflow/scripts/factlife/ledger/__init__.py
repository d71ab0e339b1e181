"""The ledger: one row per fact, model and seed, over all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from factlife import corpus, world
from factlife.ledger import life, page
from factlife.ledger.columns import COLUMNS, describe, place


def build(models: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Join what all stages say of every fact.

    Args:
        models: for each model and seed: ``model``, ``seed`` and the paths of its artifacts: ``facts`` (a table of its
            world), ``recall``, ``folder`` (the model), and where they were made ``documents``, ``tracing``,
            ``circuits``, ``graphs`` (a folder), ``influence``, ``rankings`` (a file for each ranker), ``edits`` (a folder for each editor), ``requests`` beside them, ``places``, ``survival`` (a file for each editor)
            and ``generations`` (by arm, from generation 0 on).

    Returns:
        One row per fact, model and seed, columns as in ``COLUMNS``; what a stage does not say is null.
    """
    ledger = pd.concat([_of_model(paths) for paths in models], ignore_index=True)
    return ledger[sorted(ledger.columns, key=place)]


def write(ledger: pd.DataFrame, path: str | Path) -> None:
    """Write the ledger as Parquet, every column's unit, source and meaning in the field's metadata."""
    table = pa.Table.from_pandas(ledger, preserve_index=False)
    fields = [field.with_metadata(describe(field.name)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields, table.schema.metadata)), path)


def read(path: str | Path) -> pd.DataFrame:
    """Read what ``write`` wrote."""
    return pd.read_parquet(path)


def write_page(ledger: pd.DataFrame, models: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write the page on which facts are looked up; ``models`` as in ``build``."""
    curves: dict[str, Any] = {}
    documents: dict[str, Any] = {}
    traced: dict[str, Any] = {}
    graphs: dict[str, str] = {}
    for paths in models:
        curves |= page.curves(pd.read_parquet(paths["recall"]))
        if "graphs" in paths:
            graphs |= page.graphs(paths["graphs"], path, paths["model"], paths["seed"])
        if "documents" not in paths:
            continue
        read, of = corpus.read(paths["documents"]), (paths["model"], paths["seed"])
        documents |= page.examples(read, *of)
        if "rankings" in paths:
            queries = pd.read_parquet(paths["influence"], columns=["query_id", "fact_id"]).drop_duplicates()
            rankings = {ranker: pd.read_parquet(scores) for ranker, scores in paths["rankings"].items()}
            traced |= page.traced(rankings, read, dict(queries.itertuples(index=False)), *of)
    Path(path).write_text(page.page(ledger, curves, documents, traced, graphs), encoding="utf-8")


def _of_model(paths: Mapping[str, Any]) -> pd.DataFrame:
    known = world.beside(paths["facts"])
    parts = [life.facts(known), life.names(known, paths["folder"]), life.recall(pd.read_parquet(paths["recall"]))]
    if "documents" in paths:
        parts.append(life.support(corpus.read(paths["documents"])))
    if "tracing" in paths:
        parts.append(life.tracing(pd.read_parquet(paths["tracing"])))
    if "circuits" in paths:
        parts.append(life.circuits(pd.read_parquet(paths["circuits"]), parts[0]))
    if "influence" in paths:
        parts.append(life.influence(pd.read_parquet(paths["influence"])))
    if "edits" in paths:
        parts.append(life.edits(pd.concat(pd.read_parquet(f"{folder}/edits.parquet") for folder in paths["edits"])))
        parts.append(life.unedited(pd.read_parquet(paths["requests"]), parts[0]))
    if "places" in paths:
        parts.append(life.places(pd.read_parquet(paths["places"])))
    if "survival" in paths:
        parts.append(life.survival(pd.concat(pd.read_parquet(path) for path in paths["survival"])))
    for arm, folders in paths.get("generations", {}).items():
        parts.append(life.collapse(arm, [pd.read_parquet(f"{folder}/recall.parquet") for folder in folders]))
    table = parts[0].join(parts[1:]).reset_index()
    table.insert(0, "model", paths["model"])
    table.insert(1, "seed", paths["seed"])
    return table


__all__ = ["COLUMNS", "build", "read", "write", "write_page"]
