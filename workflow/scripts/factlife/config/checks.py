"""Checks across sections: names that must exist, and keys that do not fit together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from factlife.config import (
    circuits,
    collapse,
    dictionaries,
    dynamics,
    editing,
    graphs,
    influence,
    ledger,
    tracing,
    written,
)
from factlife.config.base import missing
from factlife.config.models import Scratch, Trained

if TYPE_CHECKING:
    from factlife.config import Config


def root_model(config: Config, name: str) -> str | None:
    """The first model in a chain of models that continue from each other, whose tokenizer all share; None in a circle."""
    chain = [name]
    while isinstance(source := config.models[chain[-1]].source, Trained) and source.model in config.models:
        if source.model in chain:
            return None
        chain.append(source.model)
    return chain[-1]


def problems(config: Config) -> Iterable[str]:
    """Messages about values that are valid on their own but do not fit together."""
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
        if corpus.kind == "people" and corpus.replay_fraction and corpus.about != "new":
            yield (
                f"corpora.{name}.replay_fraction is {corpus.replay_fraction}, but only a corpus about new people can "
                "replay facts of old people; set about: new"
            )
        if (
            corpus.kind == "people"
            and corpus.about == "new"
            and not getattr(config.worlds.get(corpus.world), "new_fraction", 1)
        ):
            yield (
                f"corpora.{name}.about is new, but world {corpus.world} has no new people; "
                f"raise worlds.{corpus.world}.new_fraction"
            )
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
            yield f"models.{name}.training is missing: a model from scratch must be trained"
        if len(set(model.seeds)) < len(model.seeds):
            yield f"models.{name}.seeds has duplicates"
        if model.gpu and model.processes > 1:
            yield f"models.{name}.processes is {model.processes}, but each GPU has its own process; delete the key"
        elif model.training and model.training.batch_size % model.n_processes:
            yield (
                f"models.{name}.training.batch_size is {model.training.batch_size}, which {model.n_processes} processes "
                f"cannot split; use a multiple of {model.n_processes}"
            )
        if isinstance(model.source, Trained):
            yield from missing(f"models.{name}.source.model", model.source.model, config.models, "models")
            if not model.training:
                yield f"models.{name}.training is missing: without it, this model would equal {model.source.model}"
            if root_model(config, name) is None:
                yield f"models.{name}.source.model: the models continue from each other in a circle; start from another model"
    yield from tracing.problems(config)
    yield from circuits.problems(config)
    yield from editing.problems(config)
    yield from ledger.problems(config)
    yield from influence.problems(config)
    yield from dynamics.problems(config)
    yield from collapse.problems(config)
    yield from dictionaries.problems(config)
    yield from graphs.problems(config)
    yield from written.problems(config)
