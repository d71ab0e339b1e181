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
    """Documents cannot be rendered or read; the message says what to change."""


@dataclass
class Document:
    """A text and its origin.

    Attributes:
        text: the text itself.
        fact_ids: facts that the text states.
        entity_ids: entities that the text mentions.
        kind: for example ``biography``.
        template_ids: templates of its sentences.
        split: ``train``, or ``held_out`` for documents that are never used in training.
    """

    text: str
    kind: str
    fact_ids: list[str] = field(default_factory=list)
    entity_ids: list[str] = field(default_factory=list)
    template_ids: list[str] = field(default_factory=list)
    split: str = "train"


def documents_table(documents: Iterable[Document]) -> pd.DataFrame:
    """The documents as a table, with ids in their order.

    Raises:
        CorpusError: a document is empty, or there are no documents.
    """
    frame = pd.DataFrame([vars(document) for document in documents])
    if frame.empty:
        raise CorpusError("the corpus has no documents; raise the number of documents or statements")
    if (is_empty := frame["text"].str.strip() == "").any():
        raise CorpusError(f"document {int(is_empty.argmax())} is empty")
    n_digits = len(str(len(frame) - 1))
    frame["doc_id"] = [f"d{index:0{n_digits}d}" for index in range(len(frame))]
    return frame[DOCUMENTS.names]


def write_documents(frame: pd.DataFrame, path: str | Path) -> None:
    """Write ``documents.parquet``."""
    write_table(frame, path, DOCUMENTS)


def read_documents(path: str | Path) -> pd.DataFrame:
    """Read ``documents.parquet``."""
    return read_table(path, DOCUMENTS)
