"""Tokenized corpora: the sequences of training, with the facts that they state."""

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
    """The training documents as token ids, each followed by the end-of-text token."""
    documents = documents[documents["split"] == "train"]
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    input_ids = [ids + eos for ids in tokenizer(documents["text"].tolist())["input_ids"]]
    return documents[["doc_id", "fact_ids", "entity_ids"]].assign(input_ids=input_ids).reset_index(drop=True)


def build_sequences(tokens: pd.DataFrame, *, max_length: int, packing: int = 0) -> pd.DataFrame:
    """Training sequences: one document each, or documents packed into windows.

    Args:
        tokens: the table that ``encode_documents`` returns.
        max_length: maximum length of a sequence; longer documents are truncated, with a warning in the log.
        packing: tokens per window; 0 for one document per sequence.

    Returns:
        One row per sequence: ``doc_ids, fact_ids, input_ids``.
    """
    limit = packing or max_length
    n_cut = tokens["input_ids"].str.len().sub(limit).clip(lower=0)
    if n_cut.any():
        logging.warning("%d of %d documents are truncated to %d tokens", (n_cut > 0).sum(), len(tokens), limit)
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


def _pack(rows: list[dict], size: int, max_open_windows: int = 64) -> list[dict]:
    """Put each document into the first window that has space and mentions none of its entities."""
    closed: list[dict] = []
    open_windows: list[dict] = []
    for row in rows:
        for window in open_windows:
            if len(window["ids"]) + len(row["ids"]) <= size and not window["entities"] & row["entities"]:
                window["entities"] |= row["entities"]
                for column in ("ids", "doc_ids", "fact_ids"):
                    window[column] = window[column] + row[column]
                break
        else:
            open_windows.append(dict(row, entities=set(row["entities"])))
            if len(open_windows) > max_open_windows:
                closed.append(open_windows.pop(0))
    return closed + open_windows


def tokenize_corpus(documents: pd.DataFrame, tokenizer: str | Path, folder: str | Path) -> None:
    """Encode documents with a tokenizer and write ``tokens.parquet`` to a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_table(encode_documents(documents, _load(tokenizer)), Path(folder) / "tokens.parquet", TOKENS)


def _load(folder: str | Path) -> Any:
    settings = json.loads((Path(folder) / "tokenizer_config.json").read_text())
    if settings.get("tokenizer_class") == "TokenizersBackend":
        return PreTrainedTokenizerFast.from_pretrained(folder)
    # This imports torch, which takes longer than tokenizing most corpora.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def read_tokens(folder: str | Path) -> pd.DataFrame:
    """Read the table that ``tokenize_corpus`` wrote."""
    return read_table(Path(folder) / "tokens.parquet", TOKENS)
