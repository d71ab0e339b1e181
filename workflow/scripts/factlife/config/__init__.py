"""The typed config: sections, checks across sections, and errors that say what to do.

Imports no torch, so that reading the workflow stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from factlife.config.base import Name, Section, key, models_in, parse
from factlife.config.checks import problems, root_model
from factlife.config.circuits import Circuits, Hypothesis
from factlife.config.collapse import Collapse
from factlife.config.corpora import Corpus, Tokenizer
from factlife.config.dictionaries import DictionarySettings
from factlife.config.dynamics import Dynamics
from factlife.config.editing import Editing
from factlife.config.explain import explain_error
from factlife.config.graphs import Graphs
from factlife.config.influence import Influence
from factlife.config.ledger import Ledger
from factlife.config.models import Model
from factlife.config.recall import Recall, Run
from factlife.config.tracing import Tracing
from factlife.config.worlds import World


class ConfigError(ValueError):
    """The config cannot be run; the text names the key and the remedy."""


class Config(Section):
    """Factlife's configuration."""

    renamed: ClassVar[dict[str, str]] = {"saes": "dictionaries"}

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
    dictionaries: dict[Name, DictionarySettings] = key({}, "Sparse autoencoders and transcoders by name.")
    graphs: Graphs = key(Graphs(), "Attribution graphs of facts.")


def read_config(config: Mapping[str, Any]) -> Config:
    """Check a config and fill in its defaults.

    Raises:
        ConfigError: naming every key that is wrong and what would be right.
    """
    try:
        settings = Config.model_validate(config)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_error(item, config, Config) for item in error.errors())) from None
    if messages := list(problems(settings)):
        raise ConfigError("\n".join(messages))
    return settings


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    """All section types in the order in which the config mentions them."""
    found = [model]
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            found += [section for section in sections(inner) if section not in found]
    return found


__all__ = ["Config", "ConfigError", "parse", "read_config", "root_model", "sections"]
