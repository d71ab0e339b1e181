"""The documents of an influence benchmark, with the facts that they state according to the world."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from factlife.corpus.documents import DOCUMENTS
from factlife.world import benchmark
from factlife.world.tables import World


def render_documents(world: World, path: str | Path) -> pd.DataFrame:
    """All documents of a file, in order and with the ids of the file.

    Raises:
        WorldError: the file is missing or damaged, an id repeats, or a text is empty.
    """
    documents = benchmark.read_jsonl(path, benchmark.DOCUMENT_KEYS)
    links = {
        column: frame[[key, "documents"]].explode("documents").groupby("documents")[key].agg(list)
        for column, frame, key in (("fact_ids", world.facts, "fact_id"), ("entity_ids", world.entities, "entity_id"))
    }
    kinds = documents["type"] if "type" in documents else pd.Series(None, index=documents.index, dtype=object)
    frame = pd.DataFrame({"doc_id": documents["id"], "text": documents["text"], "kind": kinds.fillna("document")})
    for column, ids_by_document in links.items():
        frame[column] = [ids_by_document.get(doc_id, []) for doc_id in documents["id"]]
    frame["template_ids"] = [[] for _ in range(len(frame))]
    return frame.assign(split="train")[DOCUMENTS.names]
