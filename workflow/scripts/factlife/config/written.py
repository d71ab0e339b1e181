"""Corpora written by a language model, and whether all of its answers are available."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing
from factlife.config.reachability import reachable_corpora

if TYPE_CHECKING:
    from factlife.config import Config

API_KEY_VARIABLE = "ANTHROPIC_API_KEY"


class Anthropic(Section):
    """A model of Anthropic's API; the key comes from the environment variable `ANTHROPIC_API_KEY`."""

    kind: Literal["anthropic"] = key(..., "Model that writes the documents.")
    model: str = key(..., "Name of the model in the API.")


class OwnModel(Section):
    """An instruction-tuned model of this config."""

    kind: Literal["model"] = key(..., "Model that writes the documents.")
    model: Name = key(..., "Name of the model; its first seed is used.")


class WrittenCorpus(Section):
    """Prose written by a language model; a document is accepted if it states its facts and mentions no other name or value."""

    renamed: ClassVar[dict[str, str]] = {"renderings": "documents_per_subject"}

    kind: Literal["written"] = key(..., "Kind of corpus.")
    world: Name = key(..., "A world of kind `people` or `table`.")
    writer: Annotated[Anthropic | OwnModel, Field(discriminator="kind")] = key(..., "Model that writes the documents.")
    answers: str = key(..., "JSONL file that stores every answer; stored answers are reused and need no API key.")
    documents_per_subject: Count = key(5, "Documents about each subject of relative frequency 1.")
    attempts: Count = key(3, "Maximum number of answers for each document, until one passes the check.")
    max_tokens: Count = key(400, "Maximum length of an answer in tokens.")
    temperature: float | None = key(None, "Sampling temperature; null uses the writer's default.", ge=0)


def problems(config: Config) -> Iterable[str]:
    """References from written corpora to models that the config does not have."""
    for name, corpus in config.corpora.items():
        if isinstance(corpus, WrittenCorpus) and isinstance(corpus.writer, OwnModel):
            yield from missing(f"corpora.{name}.writer.model", corpus.writer.model, config.models, "models")


def fingerprint(config: Config, name: str) -> str:
    """A hash of the settings that determine a corpus's requests."""
    corpus = config.corpora[name]
    if not isinstance(corpus, WrittenCorpus):
        raise TypeError(f"corpora.{name} is not of kind `written`")
    parts = [corpus.model_dump(mode="json", exclude={"answers"}), config.worlds[corpus.world].model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def incomplete_corpora(config: Config) -> list[str]:
    """Corpora of this run that still need answers from the API."""
    return [
        name
        for name in sorted(reachable_corpora(config))
        if isinstance(corpus := config.corpora[name], WrittenCorpus)
        and isinstance(corpus.writer, Anthropic)
        and not _complete(Path(corpus.answers), fingerprint(config, name))
    ]


def _complete(answers: Path, mark: str) -> bool:
    return answers.exists() and json.dumps({"complete": mark}) in answers.read_text().splitlines()
