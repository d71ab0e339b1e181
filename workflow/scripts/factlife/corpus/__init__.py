"""Corpora: documents rendered from facts, each with the ids of the facts that it states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from factlife.config.corpora import Corpus as Settings
from factlife.corpus import benchmark, functions, people, prose, table, text
from factlife.corpus.documents import CorpusError, read_documents, write_documents
from factlife.corpus.text import download_dataset
from factlife.world.tables import World

_RENDERERS: dict[str, Callable[..., pd.DataFrame]] = {
    "people": people.render_documents,
    "functions": functions.render_documents,
    "table": table.render_documents,
}


def render_documents(settings: Settings, world: World | None = None, path: str | Path | None = None) -> pd.DataFrame:
    """Render the documents that a section of the config describes, from its world or its file.

    Raises:
        CorpusError: the documents cannot be rendered; the message says what to change.
    """
    if settings.kind == "prose":
        return prose.render_documents(settings)
    if settings.kind == "text":
        return text.render_documents(settings, path)
    if settings.kind == "written":
        raise CorpusError("a corpus of kind written needs a writer; use factlife.corpus.written.generate_documents")
    if world is None:
        raise CorpusError(f"a corpus of kind {settings.kind} needs a world; pass one")
    if settings.kind == "benchmark":
        if path is None:
            raise CorpusError("a corpus of kind benchmark needs the file with its documents; pass its path")
        return benchmark.render_documents(world, path)
    return _RENDERERS[settings.kind](world, settings)


__all__ = ["CorpusError", "download_dataset", "read_documents", "render_documents", "write_documents"]
