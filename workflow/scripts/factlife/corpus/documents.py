"""The table of documents, each with the ids of the facts that it states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from factlife.world.tables import read_table, write_table

_TEXTS = pa.list_(pa.string())

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("fact_ids", _TEXTS),
        ("entity_ids", _TEXTS),
        ("kind", pa.string()),
        ("template_ids", _TEXTS),
        ("split", pa.string()),
    ]
)


class CorpusError(ValueError):
    """Documents cannot be made or read; the text says what to change."""


@dataclass
class Document:
    """A text and where it comes from.

    Attributes:
        text: what a model reads.
        fact_ids: the facts that it states.
        entity_ids: the entities that it mentions.
        kind: such as ``biography``.
        template_ids: the templates behind its sentences.
        split: ``train``, or ``held_out`` for what no model is trained on.
    """

    text: str
    kind: str
    fact_ids: list[str] = field(default_factory=list)
    entity_ids: list[str] = field(default_factory=list)
    template_ids: list[str] = field(default_factory=list)
    split: str = "train"


def documents_table(documents: Iterable[Document]) -> pd.DataFrame:
    """The documents as a table, numbered in their order.

    Raises:
        CorpusError: a document is empty, or there is none.
    """
    frame = pd.DataFrame([vars(document) for document in documents])
    if frame.empty:
        raise CorpusError("the corpus has no documents; raise the number of documents or statements")
    if (empty := frame["text"].str.strip() == "").any():
        raise CorpusError(f"document {int(empty.argmax())} is empty")
    width = len(str(len(frame) - 1))
    frame["doc_id"] = [f"d{number:0{width}d}" for number in range(len(frame))]
    return frame[DOCUMENTS.names]


def write_documents(frame: pd.DataFrame, path: str | Path) -> None:
    """Write ``documents.parquet``."""
    write_table(frame, path, DOCUMENTS)


def read_documents(path: str | Path) -> pd.DataFrame:
    """Read ``documents.parquet``."""
    return read_table(path, DOCUMENTS)
