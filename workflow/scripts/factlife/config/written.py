"""Corpora that a language model writes, and whether its answers are all there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config

VARIABLE = "ANTHROPIC_API_KEY"


class Anthropic(Section):
    """A model behind Anthropic's API; the key comes from `ANTHROPIC_API_KEY`."""

    kind: Literal["anthropic"] = key(..., "Who writes.")
    model: str = key(..., "As the API names it.")


class OwnModel(Section):
    """A model of this config that follows instructions."""

    kind: Literal["model"] = key(..., "Who writes.")
    model: Name = key(..., "The model; its first seed.")


class WrittenCorpus(Section):
    """Prose that a language model writes, checked against the facts that it must and must not state."""

    kind: Literal["written"] = key(..., "The renderer.")
    world: Name = key(..., "A world of kind `people` or `table`.")
    writer: Annotated[Anthropic | OwnModel, Field(discriminator="kind")] = key(..., "Who writes.")
    answers: str = key(
        ..., "JSONL file that keeps every answer; what is in it is never asked for again, and needs no key."
    )
    renderings: Count = key(5, "Documents about each subject of relative frequency 1.")
    attempts: Count = key(3, "Answers, at most, for each document, until one passes the check.")
    max_tokens: Count = key(400, "Longest answer.")
    temperature: float | None = key(None, "Of sampling; empty for the writer's own.", ge=0)


def problems(config: Config) -> Iterable[str]:
    """What written corpora ask for and the config does not have."""
    for name, corpus in config.corpora.items():
        if isinstance(corpus, WrittenCorpus) and isinstance(corpus.writer, OwnModel):
            yield from missing(f"corpora.{name}.writer.model", corpus.writer.model, config.models, "models")


def fingerprint(config: Config, name: str) -> str:
    """What a corpus's requests follow from."""
    corpus = config.corpora[name]
    parts = [corpus.model_dump(mode="json", exclude={"answers"}), config.worlds[corpus.world].model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def incomplete(config: Config) -> list[str]:
    """Corpora that this run reads and for which the API must still be asked."""
    return [
        name
        for name in sorted(_read(config))
        if isinstance(corpus := config.corpora[name], WrittenCorpus)
        and isinstance(corpus.writer, Anthropic)
        and not _complete(Path(corpus.answers), fingerprint(config, name))
    ]


def _complete(answers: Path, mark: str) -> bool:
    return answers.exists() and json.dumps({"complete": mark}) in answers.read_text().splitlines()


def _read(config: Config) -> set[str]:
    """Corpora that models of this run learn from."""
    experiments = [config.dynamics.experiments[name] for name in config.run.experiments]
    models = {*config.run.models, *(one for each in experiments for arm in each.arms.values() for one in arm)}
    found: set[str] = set()
    while models:
        model = config.models[models.pop()]
        found |= {model.training.corpus} if model.training else set()
        found |= {config.tokenizers[model.tokenizer].corpus} if model.tokenizer else set()
        models |= {model.source.model} if model.source.kind == "trained" else set()
    return found
