"""Tokenized corpora: what a training step reads, and which facts it states."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from factlife.world.tables import read_table, write_table

TOKENS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("fact_ids", pa.list_(pa.string())),
        ("entity_ids", pa.list_(pa.string())),
        ("input_ids", pa.list_(pa.int32())),
    ]
)


def encode_documents(documents: pd.DataFrame, tokenizer: Any) -> pd.DataFrame:
    """The training documents as token ids, each with the end-of-text token after it."""
    documents = documents[documents["split"] == "train"]
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    encoded = [ids + end for ids in tokenizer(documents["text"].tolist())["input_ids"]]
    return documents[["doc_id", "fact_ids", "entity_ids"]].assign(input_ids=encoded).reset_index(drop=True)


def build_sequences(tokens: pd.DataFrame, *, max_length: int, packing: int = 0) -> pd.DataFrame:
    """What training reads: documents one by one, or packed into windows.

    Args:
        tokens: a table of ``encode_documents``.
        max_length: longest sequence; what lies beyond is cut and reported in the log.
        packing: tokens of a window; 0 for one document in a sequence.

    Returns:
        One row per sequence: ``doc_ids, fact_ids, input_ids``.
    """
    limit = packing or max_length
    lost = tokens["input_ids"].str.len().sub(limit).clip(lower=0)
    if lost.any():
        logging.warning("%d of %d documents are cut to %d tokens", (lost > 0).sum(), len(tokens), limit)
    rows = [
        {
            "ids": list(row.input_ids[:limit]),
            "doc_ids": [row.doc_id],
            "fact_ids": list(row.fact_ids),
            "entities": set(row.entity_ids),
        }
        for row in tokens.itertuples()
    ]
    rows = _pack(rows, packing) if packing else rows
    columns = {"doc_ids": "doc_ids", "fact_ids": "fact_ids", "input_ids": "ids"}
    return pd.DataFrame({column: [row[key] for row in rows] for column, key in columns.items()})


def _pack(rows: list[dict], size: int, open_windows: int = 64) -> list[dict]:
    """First window with room and without any of the document's entities; two about one person never meet."""
    done: list[dict] = []
    filling: list[dict] = []
    for row in rows:
        for window in filling:
            if len(window["ids"]) + len(row["ids"]) <= size and not window["entities"] & row["entities"]:
                window["entities"] |= row["entities"]
                for column in ("ids", "doc_ids", "fact_ids"):
                    window[column] = window[column] + row[column]
                break
        else:
            filling.append(dict(row, entities=set(row["entities"])))
            if len(filling) > open_windows:
                done.append(filling.pop(0))
    return done + filling


def tokenize_corpus(documents: pd.DataFrame, tokenizer: str | Path, folder: str | Path) -> None:
    """Encode documents with the tokenizer in one folder and write ``tokens.parquet`` into another."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_table(encode_documents(documents, _load(tokenizer)), Path(folder) / "tokens.parquet", TOKENS)


def _load(folder: str | Path) -> Any:
    settings = json.loads((Path(folder) / "tokenizer_config.json").read_text())
    if settings.get("tokenizer_class") == "TokenizersBackend":
        return PreTrainedTokenizerFast.from_pretrained(folder)
    # Importing it imports torch, which takes longer than most corpora.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def read_tokens(folder: str | Path) -> pd.DataFrame:
    """Read the table that ``tokenize_corpus`` wrote."""
    return read_table(Path(folder) / "tokens.parquet", TOKENS)
