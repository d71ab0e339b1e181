"""The typed config: sections, checks across sections, and errors that say what to do.

Imports no torch, so that reading the workflow stays fast.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from factlife.config.base import Name, Section, key
from factlife.config.corpora import Corpus, Tokenizer
from factlife.config.models import Model, Scratch
from factlife.config.recall import Recall, Run
from factlife.config.worlds import World


class ConfigError(ValueError):
    """The config cannot be run; the text names the key and the remedy."""


class Config(Section):
    """Factlife's configuration."""

    run: Run = key(Run(), "What is made.")
    worlds: dict[Name, World] = key({}, "Worlds by name.")
    corpora: dict[Name, Corpus] = key({}, "Corpora by name.")
    tokenizers: dict[Name, Tokenizer] = key({}, "Tokenizers by name.")
    models: dict[Name, Model] = key({}, "Models by name.")
    recall: Recall = key(Recall(), "How models are asked.")


def read(config: Mapping[str, Any]) -> Config:
    """Check a config and fill in its defaults.

    Raises:
        ConfigError: naming every key that is wrong and what would be right.
    """
    try:
        settings = Config.model_validate(config)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, config) for item in error.errors())) from None
    if problems := list(_problems(settings)):
        raise ConfigError("\n".join(problems))
    return settings


def parse(kind: Any, mapping: Mapping[str, Any]) -> Any:
    """A section of a checked config as its type, such as ``parse(World, config["worlds"]["people"])``."""
    return TypeAdapter(kind).validate_python(mapping)


def _explain(error: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    # Pydantic names the member of a union inside the path; users know only the keys that they wrote.
    path, here = [], config
    for part in error["loc"]:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            if part != error["loc"][-1] or error["type"] not in ("missing", "extra_forbidden"):
                continue
        path.append(str(part))
    where = ".".join(path) or "config"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _known_keys(), n=1)
        return f"{where} is not a key of the config" + (f"; did you mean `{near[0]}`?" if near else "")
    if error["type"] == "missing":
        return f"{where} is missing: {_known_keys().get(path[-1], 'it must be given')}"
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _known_keys() -> dict[str, str]:
    return {name: field.description or "" for model in sections() for name, field in model.model_fields.items()}


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    """All section types in the order in which the config mentions them."""
    found = [model]
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found += [section for section in sections(inner) if section not in found]
    return found


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _problems(config: Config) -> Iterable[str]:
    for name in config.run.models:
        yield from _missing("run.models", name, config.models, "models")
    for name, corpus in config.corpora.items():
        if world := getattr(corpus, "world", None):
            yield from _missing(f"corpora.{name}.world", world, config.worlds, "worlds")
            if world in config.worlds and config.worlds[world].kind != corpus.kind:
                yield f"corpora.{name}.world is `{world}`, a world of kind {config.worlds[world].kind}; must be of kind {corpus.kind}"
        if corpus.kind == "text" and (corpus.path is None) == (corpus.dataset is None):
            yield f"corpora.{name}: give either `path` or `dataset`"
        if corpus.kind == "text" and corpus.dataset and not corpus.revision:
            yield f"corpora.{name}.revision is missing: without the dataset's commit a run could not be repeated"
    for name, tokenizer in config.tokenizers.items():
        yield from _missing(f"tokenizers.{name}.corpus", tokenizer.corpus, config.corpora, "corpora")
    for name, model in config.models.items():
        yield from _missing(f"models.{name}.world", model.world, config.worlds, "worlds")
        if model.training:
            yield from _missing(f"models.{name}.training.corpus", model.training.corpus, config.corpora, "corpora")
        if model.tokenizer:
            yield from _missing(f"models.{name}.tokenizer", model.tokenizer, config.tokenizers, "tokenizers")
        if isinstance(model.source, Scratch) and not model.tokenizer:
            yield f"models.{name}.tokenizer is missing: a model from scratch needs one of {', '.join(config.tokenizers)}"
        if not isinstance(model.source, Scratch) and model.tokenizer:
            yield f"models.{name}.tokenizer: a pretrained model brings its own tokenizer; delete the key"
        if isinstance(model.source, Scratch) and not model.training:
            yield f"models.{name}.training is missing: a model from scratch knows nothing"
        if len(set(model.seeds)) < len(model.seeds):
            yield f"models.{name}.seeds has duplicates"


def _missing(where: str, name: str, section: Mapping[str, Any], kind: str) -> Iterable[str]:
    if name not in section:
        near = difflib.get_close_matches(name, section, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(section) or 'none'}"
        yield f"{where} is `{name}`, which is not in {kind}; {hint}"


__all__ = ["Config", "ConfigError", "parse", "read", "sections"]
