"""The typed config: sections, checks across sections, and errors that say what to do.

Imports no torch, so that reading the workflow stays fast.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from factlife.config.base import Name, Section, hint, key, missing, parse
from factlife.config.circuits import Circuits, Hypothesis
from factlife.config.circuits import problems as problems_of_circuits
from factlife.config.collapse import Collapse
from factlife.config.collapse import problems as problems_of_collapse
from factlife.config.corpora import Corpus, Tokenizer
from factlife.config.dynamics import Dynamics
from factlife.config.dynamics import problems as problems_of_dynamics
from factlife.config.editing import Editing
from factlife.config.editing import problems as problems_of_editing
from factlife.config.graphs import Graphs
from factlife.config.graphs import problems as problems_of_graphs
from factlife.config.influence import Influence
from factlife.config.influence import problems as problems_of_influence
from factlife.config.ledger import Ledger
from factlife.config.ledger import problems as problems_of_ledger
from factlife.config.models import Model, Scratch, Trained
from factlife.config.recall import Recall, Run
from factlife.config.saes import Sae
from factlife.config.saes import problems as problems_of_saes
from factlife.config.tracing import Tracing
from factlife.config.tracing import problems as problems_of_tracing
from factlife.config.worlds import World
from factlife.config.written import problems as problems_of_written


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
    tracing: Tracing = key(Tracing(), "How facts are located.")
    circuits: Circuits = key(Circuits(), "How circuits are found and validated.")
    hypotheses: dict[Name, Hypothesis] = key({}, "What parts of models are said to do, by name.")
    editing: Editing = key(Editing(), "Which facts are changed, and by what.")
    influence: Influence = key(Influence(), "Which documents taught models their facts.")
    dynamics: Dynamics = key(Dynamics(), "Experiments on how facts are learned and forgotten.")
    ledger: Ledger = key(Ledger(), "One row per fact, over all stages, and questions across them.")
    collapse: Collapse = key(Collapse(), "Models that learn from their own text.")
    saes: dict[Name, Sae] = key({}, "Sparse autoencoders and transcoders by name.")
    graphs: Graphs = key(Graphs(), "How facts are explained by attribution graphs.")


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
    match error["type"]:
        case "extra_forbidden":
            section = _type_at(error["loc"][:-1])
            if new := section.renamed.get(path[-1]):
                return f"{where} is now called `{new}`; rename the key"
            known = section.model_fields
            near = hint(path[-1], known)
            # A key of another kind of thing was hardly written by the user, but merged under what the user wrote.
            if len(error["loc"]) > len(path) and error["loc"][-2] != path[-2] and not near.startswith("did"):
                near += "; it may be of config/config.yaml, into which mappings merge: use a new name"
            return f"{where} is not a key of the config; {near}"
        case "missing":
            return f"{where} is missing: {_type_at(error['loc'][:-1]).model_fields[path[-1]].description}"
        case "union_tag_not_found" | "union_tag_invalid":
            tag, tags = error["ctx"]["discriminator"].strip("'"), ", ".join(_by_tag(_type_at(error["loc"])))
            said = f"is {error['input'][tag]!r}" if tag in error["input"] else "is missing"
            return f"{where}.{tag} {said}: must be one of {tags}"
        case "string_pattern_mismatch":
            rule = "a name has small letters, digits and hyphens only, and begins with a letter or digit"
            return f"{where} is {error['input']!r}: {rule}"
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _type_at(place: Iterable[str | int]) -> Any:
    """What the config holds at a place of pydantic's, which names the tags of unions beside the user's keys."""
    here: Any = Config
    for part in place:
        if typing.get_origin(here) is typing.Annotated:
            here = typing.get_args(here)[0]
        if fields := getattr(here, "model_fields", None):
            here = fields[part].annotation
        elif typing.get_origin(here) in (list, dict):
            here = typing.get_args(here)[-1]
        else:
            here = _by_tag(here)[part]
        here = next((one for one in typing.get_args(here) if types.NoneType in typing.get_args(here)), here)
    return here


def _by_tag(union: Any) -> dict[str, type[BaseModel]]:
    tags = ((next(iter(model.model_fields.values())).annotation, model) for model in _models_in(union))
    return {typing.get_args(literal)[0]: model for literal, model in tags}


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


def root(config: Config, name: str) -> str | None:
    """The model whose tokenizer a model has: the first of those that were trained one after the other."""
    seen = [name]
    while isinstance(source := config.models[seen[-1]].source, Trained) and source.model in config.models:
        if source.model in seen:
            return None
        seen.append(source.model)
    return seen[-1]


def _problems(config: Config) -> Iterable[str]:
    if len(set(config.run.models)) < len(config.run.models):
        yield "run.models has duplicates"
    for name in config.run.models:
        yield from missing("run.models", name, config.models, "models")
    for name, corpus in config.corpora.items():
        if world := getattr(corpus, "world", None):
            yield from missing(f"corpora.{name}.world", world, config.worlds, "worlds")
            kinds = ("people", "table") if corpus.kind == "written" else (corpus.kind,)
            if world in config.worlds and config.worlds[world].kind not in kinds:
                yield (
                    f"corpora.{name}.world is `{world}`, a world of kind {config.worlds[world].kind}; "
                    f"must be of kind {' or '.join(kinds)}"
                )
        if corpus.kind == "text" and (corpus.path is None) == (corpus.dataset is None):
            yield f"corpora.{name}: give either `path` or `dataset`"
        if corpus.kind == "text" and corpus.dataset and not corpus.revision:
            yield f"corpora.{name}.revision is missing: without the dataset's commit a run could not be repeated"
        if corpus.kind == "people" and corpus.replay and corpus.about != "late":
            yield f"corpora.{name}.replay is {corpus.replay}, but only a corpus about late people replays; set about: late"
        if (
            corpus.kind == "people"
            and corpus.about == "late"
            and not getattr(config.worlds.get(corpus.world), "late", 1)
        ):
            yield f"corpora.{name}.about is late, but nobody is late in world {corpus.world}; raise worlds.{corpus.world}.late"
    for name, tokenizer in config.tokenizers.items():
        yield from missing(f"tokenizers.{name}.corpus", tokenizer.corpus, config.corpora, "corpora")
    for name, model in config.models.items():
        yield from missing(f"models.{name}.world", model.world, config.worlds, "worlds")
        if model.training:
            yield from missing(f"models.{name}.training.corpus", model.training.corpus, config.corpora, "corpora")
        if model.tokenizer:
            yield from missing(f"models.{name}.tokenizer", model.tokenizer, config.tokenizers, "tokenizers")
        if isinstance(model.source, Scratch) and not model.tokenizer:
            yield f"models.{name}.tokenizer is missing: a model from scratch needs one of {', '.join(config.tokenizers)}"
        if not isinstance(model.source, Scratch) and model.tokenizer:
            yield f"models.{name}.tokenizer: a pretrained model brings its own tokenizer; delete the key"
        if not isinstance(model.source, Scratch) and name in config.tokenizers:
            yield f"models.{name}: a tokenizer has this name too, but a pretrained model brings its own; rename one"
        if isinstance(model.source, Scratch) and not model.training:
            yield f"models.{name}.training is missing: a model from scratch knows nothing"
        if len(set(model.seeds)) < len(model.seeds):
            yield f"models.{name}.seeds has duplicates"
        if model.gpu and model.processes > 1:
            yield f"models.{name}.processes is {model.processes}, but there is one for each GPU; delete the key"
        elif model.training and model.training.batch_size % model.shares:
            yield (
                f"models.{name}.training.batch_size is {model.training.batch_size}, which {model.shares} processes cannot "
                f"share; take a multiple of {model.shares}"
            )
        if isinstance(model.source, Trained):
            yield from missing(f"models.{name}.source.model", model.source.model, config.models, "models")
            if not model.training:
                yield f"models.{name}.training is missing: without it, this would be {model.source.model} once more"
            if root(config, name) is None:
                yield f"models.{name}.source.model: the models go on from each other in a circle; begin with one that does not"
    yield from problems_of_tracing(config)
    yield from problems_of_circuits(config)
    yield from problems_of_editing(config)
    yield from problems_of_ledger(config)
    yield from problems_of_influence(config)
    yield from problems_of_dynamics(config)
    yield from problems_of_collapse(config)
    yield from problems_of_saes(config)
    yield from problems_of_graphs(config)
    yield from problems_of_written(config)


__all__ = ["Config", "ConfigError", "Sae", "parse", "read", "root", "sections"]
