"""The typed config of the workflow.

This package imports no torch, so that Snakemake starts fast.
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
    """The config is not valid; the message names the key and the remedy."""


class Config(Section):
    """Factlife's configuration."""

    renamed: ClassVar[dict[str, str]] = {"saes": "dictionaries"}

    run: Run = key(Run(), "Models, experiments and trackers of the run.")
    worlds: dict[Name, World] = key({}, "Worlds by name.")
    corpora: dict[Name, Corpus] = key({}, "Corpora by name.")
    tokenizers: dict[Name, Tokenizer] = key({}, "Tokenizers by name.")
    models: dict[Name, Model] = key({}, "Models by name.")
    recall: Recall = key(Recall(), "Recall: how models are probed.")
    tracing: Tracing = key(Tracing(), "Causal tracing: where facts are stored.")
    circuits: Circuits = key(Circuits(), "Discovery and validation of circuits.")
    hypotheses: dict[Name, Hypothesis] = key({}, "Hypotheses about components of models, by name.")
    editing: Editing = key(Editing(), "Edits of facts, editors and their evaluation.")
    influence: Influence = key(Influence(), "Attribution of facts to training documents.")
    dynamics: Dynamics = key(Dynamics(), "Experiments on how facts are learned and forgotten.")
    ledger: Ledger = key(Ledger(), "The ledger: one row per fact over all stages, and questions across stages.")
    collapse: Collapse = key(Collapse(), "Models trained on their own output.")
    dictionaries: dict[Name, DictionarySettings] = key({}, "Sparse autoencoders and transcoders by name.")
    graphs: Graphs = key(Graphs(), "Attribution graphs of facts.")


def read_config(config: Mapping[str, Any]) -> Config:
    """Check a config and fill in its defaults.

    Raises:
        ConfigError: names every invalid key and the remedy.
    """
    try:
        settings = Config.model_validate(config)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_error(item, config, Config) for item in error.errors())) from None
    if messages := list(problems(settings)):
        raise ConfigError("\n".join(messages))
    return settings


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    """All types of sections, in the order in which they appear in the config."""
    types = [model]
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            types += [section for section in sections(inner) if section not in types]
    return types


__all__ = ["Config", "ConfigError", "parse", "read_config", "root_model", "sections"]
