"""The typed config: sections, checks across sections, and errors that say what to do.

Imports no torch, so that reading the workflow stays fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from factlife.config.base import Name, Section, key, kind_names, models_in, parse
from factlife.config.checks import problems, root_model
from factlife.config.circuits import Hypothesis
from factlife.config.collapse import Collapse
from factlife.config.corpora import Corpus, Tokenizer
from factlife.config.derive import with_derived_defaults
from factlife.config.dictionaries import DictionarySettings, ModelDictionaries
from factlife.config.dynamics import Experiment
from factlife.config.editing import Editor, HypernetworkTraining, KeyCovariance, ModelEditing
from factlife.config.explain import explain_error
from factlife.config.influence import Influence, InfluenceSettings, Ranker
from factlife.config.ledger import Ledger
from factlife.config.merge import resolve, unlisted_sections, with_kind_entries
from factlife.config.models import Model, Stage, Stages
from factlife.config.run import Run
from factlife.config.worlds import World


class ConfigError(ValueError):
    """The config cannot be run; the text names the key and the remedy."""


class Config(Section):
    """Factlife's configuration."""

    renamed: ClassVar[dict[str, str]] = {"saes": "dictionaries"}
    moved: ClassVar[dict[str, str]] = {
        "tracing": "models.*.tracing",
        "circuits": "models.*.circuits",
        "graphs": "models.*.graphs",
        "editing": "models.*.editing, editors, covariances and hypernetworks",
        "dynamics": "experiments and run.resamples",
        "recall": "run.resamples and models.*.batch_tokens",
    }

    run: Run = key(Run(), "What to run, and settings that all stages share.")
    defaults: Stages = key(Stages(), "Settings of stages that lie below every model's own.")
    worlds: dict[Name, World] = key({}, "Worlds by name.")
    corpora: dict[Name, Corpus] = key({}, "Corpora by name.")
    tokenizers: dict[Name, Tokenizer] = key({}, "Tokenizers by name.")
    models: dict[Name, Model] = key({}, "Models by name.")
    experiments: dict[Name, Experiment] = key({}, "Comparisons of several models, by name.")
    dictionaries: dict[Name, DictionarySettings] = key({}, "Sparse autoencoders and transcoders by name.")
    hypotheses: dict[Name, Hypothesis] = key({}, "Claims about components of models, by name.")
    editors: dict[Name, Editor] = key({}, "Editors by name.")
    covariances: dict[Name, KeyCovariance] = key({}, "Key covariances by name.")
    hypernetworks: dict[Name, HypernetworkTraining] = key({}, "MEND's hypernetworks by name.")
    rankers: dict[Name, Ranker] = key({}, "Rankers of training documents by name.")
    influence: Influence = key(Influence(), "Evaluation of rankers.")
    collapse: Collapse = key(Collapse(), "Arms of collapse, and the tasks that their generations are evaluated on.")
    ledger: Ledger = key(Ledger(), "One row per fact, with the results of all stages, and questions across them.")

    def running(self, stage: Stage) -> Iterator[tuple[Name, Any]]:
        """Models of the run that go through a stage, with their settings of it."""
        for name in self.run.models:
            if name in self.models and (settings := getattr(self.models[name], stage)) is not None:
                yield name, settings


def read_config(default: Mapping[str, Any], user: Mapping[str, Any] | None = None) -> Config:
    """Put the user's config on top of the default scenario, check it, and fill in what follows from other settings.

    Args:
        default: the default scenario, or a whole config.
        user: the user's own mapping, before anything was merged into it.

    Raises:
        ConfigError: names every invalid key and the remedy.
    """
    merged = with_kind_entries(resolve(default, user or {}), _KINDS)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_error(item, merged, Config) for item in error.errors())) from None
    config = with_derived_defaults(config)
    if messages := [*unlisted_sections(user or {}, merged), *problems(config)]:
        raise ConfigError("\n".join(messages))
    return config


# Section of named entries, and the stage whose settings list them under the same key; a kind's name stands for its defaults.
_KINDS = {
    section: (stage, settings.model_fields[section].get_default(call_default_factory=True), kind_names(entry))
    for section, stage, settings, entry in (
        ("editors", "editing", ModelEditing, Editor),
        ("rankers", "influence", InfluenceSettings, Ranker),
        ("dictionaries", "saes", ModelDictionaries, DictionarySettings),
    )
}


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    """All section types in the order in which the config mentions them."""
    section_types = [model]
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            section_types += [section for section in sections(inner) if section not in section_types]
    return section_types


__all__ = ["Config", "ConfigError", "parse", "read_config", "root_model", "sections"]
