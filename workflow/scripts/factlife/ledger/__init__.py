"""The ledger: one row per fact, model and seed, over all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from factlife import corpus, world
from factlife.ledger import page, stage_columns
from factlife.ledger.columns import COLUMNS, column_order, describe_column


def build_ledger(models: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Join the results of all stages for every fact.

    Args:
        models: for each model and seed: ``model``, ``seed`` and the paths of its artifacts: ``facts`` (the table of its
            world), ``recall``, ``model_folder``, and of the stages that were run ``documents``, ``tracing``,
            ``circuits``, ``graphs`` (a folder), ``influence``, ``rankings`` (a file for each ranker), ``edits`` (a
            folder for each editor), ``requests``, ``edit_sites``, ``survival`` (a file for each editor) and
            ``generations`` (by arm, from generation 0 on).

    Returns:
        One row per fact, model and seed, with columns as in ``COLUMNS``; null if a stage did not measure the fact.
    """
    ledger = pd.concat([_model_rows(paths) for paths in models], ignore_index=True)
    return ledger[sorted(ledger.columns, key=column_order)]


def write_ledger(ledger: pd.DataFrame, path: str | Path) -> None:
    """Write the ledger as Parquet, with unit, source and meaning of each column in its field's metadata."""
    table = pa.Table.from_pandas(ledger, preserve_index=False)
    fields = [field.with_metadata(describe_column(field.name)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields, table.schema.metadata)), path)


def read_ledger(path: str | Path) -> pd.DataFrame:
    """Read a ledger that ``write_ledger`` wrote."""
    return pd.read_parquet(path)


def write_fact_page(ledger: pd.DataFrame, models: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write the page on which to look up facts; ``models`` as in ``build_ledger``."""
    curves: dict[str, Any] = {}
    examples: dict[str, Any] = {}
    top_documents: dict[str, Any] = {}
    graphs: dict[str, str] = {}
    for paths in models:
        curves |= page.learning_curves(pd.read_parquet(paths["recall"]))
        if "graphs" in paths:
            graphs |= page.graph_links(paths["graphs"], path, paths["model"], paths["seed"])
        if "documents" not in paths:
            continue
        documents, run = corpus.read_documents(paths["documents"]), (paths["model"], paths["seed"])
        examples |= page.example_documents(documents, *run)
        if "rankings" in paths:
            queries = pd.read_parquet(paths["influence"], columns=["query_id", "fact_id"]).drop_duplicates()
            rankings = {ranker: pd.read_parquet(scores) for ranker, scores in paths["rankings"].items()}
            fact_of_query = dict(queries.itertuples(index=False))
            top_documents |= page.top_documents(rankings, documents, fact_of_query, *run)
    Path(path).write_text(page.render_page(ledger, curves, examples, top_documents, graphs), encoding="utf-8")


def _model_rows(paths: Mapping[str, Any]) -> pd.DataFrame:
    model_world = world.load_world(Path(paths["facts"]).parent)
    parts = [
        stage_columns.fact_columns(model_world),
        stage_columns.name_columns(model_world, paths["model_folder"]),
        stage_columns.recall_columns(pd.read_parquet(paths["recall"])),
    ]
    if "documents" in paths:
        parts.append(stage_columns.document_columns(corpus.read_documents(paths["documents"])))
    if "tracing" in paths:
        parts.append(stage_columns.tracing_columns(pd.read_parquet(paths["tracing"])))
    if "circuits" in paths:
        parts.append(stage_columns.circuit_columns(pd.read_parquet(paths["circuits"]), parts[0]))
    if "influence" in paths:
        parts.append(stage_columns.influence_columns(pd.read_parquet(paths["influence"])))
    if "edits" in paths:
        parts.append(
            stage_columns.edit_columns(
                pd.concat(pd.read_parquet(f"{folder}/edits.parquet") for folder in paths["edits"])
            )
        )
        parts.append(stage_columns.request_columns(pd.read_parquet(paths["requests"]), parts[0]))
    if "edit_sites" in paths:
        parts.append(stage_columns.edit_site_columns(pd.read_parquet(paths["edit_sites"])))
    if "survival" in paths:
        parts.append(stage_columns.survival_columns(pd.concat(pd.read_parquet(path) for path in paths["survival"])))
    for arm, folders in paths.get("generations", {}).items():
        parts.append(
            stage_columns.collapse_columns(arm, [pd.read_parquet(f"{folder}/recall.parquet") for folder in folders])
        )
    table = parts[0].join(parts[1:]).reset_index()
    table.insert(0, "model", paths["model"])
    table.insert(1, "seed", paths["seed"])
    return table


__all__ = ["COLUMNS", "build_ledger", "read_ledger", "write_fact_page", "write_ledger"]
