"""Definitions that a run reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factlife.config.base import Name
from factlife.config.training import Trained

if TYPE_CHECKING:
    from factlife.config import Config


def reachable_models(config: Config) -> list[Name]:
    """Models of the run and of its experiments, the models from which they continue, and the models that help them."""
    names = [
        *config.run.models,
        *(
            model
            for name in config.run.experiments
            if name in config.experiments
            for arm in config.experiments[name].arms.values()
            for model in arm
        ),
        *(settings.perplexity_model for _, settings in config.running("collapse")),
    ]
    reached: list[Name] = []
    while names:
        name = names.pop(0)
        if name in config.models and name not in reached:
            reached.append(name)
            source = config.models[name].source
            names += [source.model] if isinstance(source, Trained) else []
            names += _writers(config, name)
    return reached


def _writers(config: Config, name: Name) -> list[Name]:
    """The model that writes the corpus on which a model is trained."""
    training = config.models[name].training
    corpus = config.corpora.get(training.corpus) if training else None
    return [corpus.writer.model] if corpus and corpus.kind == "written" and corpus.writer.kind == "model" else []


def reachable_corpora(config: Config) -> list[Name]:
    """Corpora on which models of the run, or their tokenizers, are trained."""
    models = reachable_models(config)
    trained = [config.models[name].training for name in models]
    tokenizers = [config.tokenizers.get(config.models[name].tokenizer or "") for name in models]
    names = [part.corpus for part in [*trained, *tokenizers] if part]
    return [name for name in dict.fromkeys(names) if name in config.corpora]
