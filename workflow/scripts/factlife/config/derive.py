"""Defaults that follow from other settings, filled in after the config was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factlife.config.base import Name, Section
from factlife.config.editing import KeyCovariance
from factlife.config.worlds import world_relations

if TYPE_CHECKING:
    from factlife.config import Config
    from factlife.config.models import Model


def with_derived_defaults(config: Config) -> Config:
    """The config with its derived defaults: relations, covariances, transcoders, and entries named after a kind."""
    corpora = {_covariance_corpus(model) for model in config.models.values() if _needs_covariance(model)}
    new = {_covariance_name(config, corpus): KeyCovariance(corpus=corpus) for corpus in sorted(corpora)}
    config = config.model_copy(update={"covariances": new | config.covariances})
    models = {name: _derive_model(config, model) for name, model in config.models.items()}
    return config.model_copy(update={"models": models})


def _derive_model(config: Config, model: Model) -> Model:
    changes: dict[str, Section] = {}
    world = config.worlds.get(model.world) if model.world else None
    if model.circuits and model.circuits.relations is None and world:
        changes["circuits"] = model.circuits.model_copy(update={"relations": world_relations(world)})
    if model.graphs and model.graphs.transcoder is None and model.saes:
        transcoders = [
            name
            for name in model.saes.dictionaries
            if name in config.dictionaries and config.dictionaries[name].kind == "transcoder"
        ]
        if len(transcoders) == 1:
            changes["graphs"] = model.graphs.model_copy(update={"transcoder": transcoders[0]})
    if model.editing is not None and model.editing.covariance is None:
        name = _covariance_name(config, _covariance_corpus(model))
        changes["editing"] = model.editing.model_copy(update={"covariance": name})
    return model.model_copy(update=changes)


def _needs_covariance(model: Model) -> bool:
    return model.editing is not None and model.editing.covariance is None


def _covariance_corpus(model: Model) -> Name:
    return model.training.corpus if model.training else "prose"


def _covariance_name(config: Config, corpus: Name) -> Name:
    """The covariance named after a corpus; another name where an entry of this name reads another corpus."""
    entry = config.covariances.get(corpus)
    return corpus if entry is None or entry.corpus == corpus else f"{corpus}-corpus"
