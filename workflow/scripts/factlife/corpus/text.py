"""The user's own text: a local file or a dataset of the Hugging Face hub, with one document per line or row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from factlife.config.corpora import TextCorpus
from factlife.corpus import documents
from factlife.corpus.documents import CorpusError, Document


def render_documents(settings: TextCorpus, path: str | Path | None = None) -> pd.DataFrame:
    """All documents of a local file in order, or a random sample; blank documents are skipped.

    Args:
        settings: names the file or the dataset.
        path: the downloaded dataset.

    Raises:
        CorpusError: the file, the dataset or its column is missing or damaged, or there are fewer documents than
            needed.
    """
    rng = random.Random(f"text {settings.seed}")
    if not (file := path or settings.path):
        raise CorpusError(f"the dataset {settings.dataset!r} is not downloaded; pass its path")
    texts = [text.strip() for text in _read_local(Path(file), settings.column) if text and text.strip()]
    if settings.documents is not None:
        if settings.documents > len(texts):
            raise CorpusError(
                f"{settings.documents} documents are needed, but {settings.dataset or settings.path} has only {len(texts)}; lower `documents`"
            )
        texts = rng.sample(texts, settings.documents)
    held_out_indices = set(rng.sample(range(len(texts)), round(settings.held_out_fraction * len(texts))))
    return documents.documents_table(
        Document(text, "text", split="held_out" if index in held_out_indices else "train")
        for index, text in enumerate(texts)
    )


def _read_local(path: Path, column: str) -> Sequence[str | None]:
    readers: dict[str, Callable[[Path, str], Sequence[str | None]]] = {
        ".txt": _read_lines,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise CorpusError(
            f"{path} ends in {path.suffix or 'nothing'!r}; a corpus of kind text must end in {', '.join(readers)}"
        )
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; correct the corpus's `path`")
    try:
        return readers[path.suffix](path, column)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise CorpusError(f"{path} is damaged or not in UTF-8: {error}") from None


def _read_lines(path: Path, column: str) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _read_jsonl(path: Path, column: str) -> list[str | None]:
    texts = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{path}, line {line_number} is not JSON: {error}") from None
        if not isinstance(record, dict) or not isinstance(record.get(column), str | None) or column not in record:
            raise CorpusError(f"{path}, line {line_number} has no text named `{column}`; set the corpus's `column`")
        texts.append(record[column])
    return texts


def _read_parquet(path: Path, column: str) -> list[str | None]:
    names = pq.read_schema(path).names
    if column not in names:
        raise CorpusError(f"{path} has no column `{column}`, but {', '.join(names)}; set the corpus's `column`")
    return pq.read_table(path, columns=[column])[column].to_pylist()


def download_dataset(settings: TextCorpus, path: str | Path) -> None:
    """Download the split of a hub dataset, at its pinned revision, to a Parquet file.

    Raises:
        CorpusError: the dataset cannot be loaded or lacks the column.
    """
    import datasets

    try:
        rows = datasets.load_dataset(
            settings.dataset, settings.subset, split=settings.split, revision=settings.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise CorpusError(
            f"the dataset {settings.dataset!r} (split {settings.split!r}, revision {settings.revision!r}) cannot be "
            f"loaded: {error}"
        ) from None
    if settings.column not in rows.column_names:
        raise CorpusError(
            f"the dataset {settings.dataset!r} has no column `{settings.column}`, but {', '.join(rows.column_names)}; "
            "set the corpus's `column`"
        )
    rows.select_columns([settings.column]).to_parquet(str(path))
