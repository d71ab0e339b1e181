"""Real English that needs no download: documentation in the standard library and in installed packages.

Source files are parsed, never imported. Only plain prose is used: no code, no parameter tables, no doctests.
"""

from __future__ import annotations

import ast
import platform
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath

import pandas as pd

from factlife.config.corpora import ProseCorpus
from factlife.corpus import documents
from factlife.corpus.documents import CorpusError, Document

WORDS = range(40, 301)

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "externals", "vendored"}
_HEADING = re.compile(r"^.+\n[-=~^]{3,}\n")
_MARKUP = re.compile(r":[a-z:]+:(?=`)|`+_*|(?<!\w)\*+(?=\w)|(?<=\w)\*+(?!\w)|\s?\[\w+\]_")
_WORD = re.compile(r"[\"'(]*[A-Za-z]+(?:['-][A-Za-z]+)*[\"')]*[.,;:!?]*[\"')]*")
_NODES_WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class _Text:
    text: str
    module: str
    source: str
    licence: str


def render_documents(settings: ProseCorpus) -> pd.DataFrame:
    """A random sample of documents, with the columns ``licence`` and ``source`` (package, version, module).

    The split is by module, so training documents reveal nothing of held-out ones.

    Raises:
        CorpusError: a package is not installed, or there are fewer documents than needed.
    """
    rng = random.Random(f"prose {settings.seed}")
    texts = list(_distinct(text for package in dict.fromkeys(settings.packages) for text in _texts(package)))
    if settings.documents > len(texts):
        raise CorpusError(
            f"{settings.documents} documents of prose are needed, but {', '.join(settings.packages)} contain only "
            f"{len(texts)}; lower `documents` or add `packages`"
        )
    sample = rng.sample(texts, settings.documents)
    held_out_modules = _sample_modules(sample, round(settings.held_out_fraction * len(sample)), rng)
    frame = documents.documents_table(
        Document(text.text, "prose", split="held_out" if text.module in held_out_modules else "train")
        for text in sample
    )
    return frame.assign(licence=[text.licence for text in sample], source=[text.source for text in sample])


def _sample_modules(texts: list[_Text], max_documents: int, rng: random.Random) -> set[str]:
    """Random modules with at most ``max_documents`` documents in total."""
    counts = pd.Series([text.module for text in texts]).value_counts().sort_index()
    shuffled = rng.sample(list(counts.index), len(counts))
    selected: set[str] = set()
    for module in shuffled:
        if counts[module] <= max_documents:
            selected.add(module)
            max_documents -= counts[module]
    return selected


def _distinct(texts: Iterator[_Text]) -> Iterator[_Text]:
    """Texts whose first and last words are new: copied documentation often differs only in the middle."""
    seen_ends: set[str] = set()
    for text in texts:
        words = text.text.lower().split()
        ends = {" ".join(words[:8]), " ".join(words[-8:])}
        if not ends & seen_ends:
            yield text
        seen_ends |= ends


def _texts(package: str) -> Iterator[_Text]:
    files, version, licence = _package(package)
    for module, path in files:
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # syntax of another Python version
        for node in ast.walk(tree):
            if isinstance(node, _NODES_WITH_DOCSTRINGS) and (docstring := ast.get_docstring(node)):
                for text in prose_passages(docstring):
                    yield _Text(text, module, f"{package} {version} {module}", licence)


def _package(package: str) -> tuple[list[tuple[str, Path]], str, str]:
    """Modules with their files in a fixed order, the version and the licence of a package."""
    if package == "python":
        files: list[tuple[PurePath, Path]]
        root = Path(sysconfig.get_path("stdlib"))
        files = [(path.relative_to(root), path) for path in root.rglob("*.py")]
        version, licence = platform.python_version(), "PSF-2.0"
    else:
        try:
            installed = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            raise CorpusError(
                f"the package {package!r} is not installed; install it or remove it from the corpus's `packages`"
            ) from None
        files = [(file, Path(str(file.locate()))) for file in installed.files or () if file.suffix == ".py"]
        version, licence = installed.version, _licence(installed.metadata)
    included = [(path, file) for path, file in files if not _SKIPPED & set(path.parts) and file.is_file()]
    modules = [(".".join(path.with_suffix("").parts).removesuffix(".__init__"), file) for path, file in included]
    return sorted(modules), version, licence


def _licence(about: metadata.PackageMetadata) -> str:
    """The licence: the SPDX expression if the package gives one, otherwise its classifiers or first line."""
    classifiers = [
        classifier.split(" :: ")[-1]
        for classifier in about.get_all("Classifier") or ()
        if classifier.startswith("License")
    ]
    declared = (_field(about, "License") or "unknown").strip().splitlines()[0]
    return _field(about, "License-Expression") or ", ".join(classifiers) or declared


def _field(about: metadata.PackageMetadata, name: str) -> str | None:
    return next(iter(about.get_all(name) or ()), None)


def prose_passages(docstring: str) -> list[str]:
    """Consecutive plain paragraphs of a docstring, joined to passages whose number of words is in ``WORDS``."""
    runs: list[list[str]] = [[]]
    for paragraph in re.split(r"\n\s*\n", docstring):
        text = _plain(paragraph)
        if text is None or sum(len(part.split()) for part in [*runs[-1], text]) >= WORDS.stop:
            runs.append([])
        if text is not None:
            runs[-1].append(text)
    return [text for run in runs if len((text := " ".join(run)).split()) in WORDS]


def _plain(paragraph: str) -> str | None:
    """A paragraph on one line without markup; None if it is not prose."""
    paragraph = _HEADING.sub("", paragraph.strip("\n"))
    if re.search(r"^\s|^[-*+|#>.]|^\d+[.)]|^:|::$|>>>|\.\. |https?:|[\\{}=<>|@]", paragraph, re.MULTILINE):
        return None
    words = _MARKUP.sub("", paragraph).split()
    text = " ".join(words)
    if not re.fullmatch(r"[A-Z].*[.!?]", text) or re.search(r"[,(] ?[.,)]", text):
        return None
    return text if sum(bool(_WORD.fullmatch(word)) for word in words) >= 0.9 * len(words) else None
