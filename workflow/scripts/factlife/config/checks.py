"""Checks across sections: names that must exist, and keys that do not fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

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
from factlife.config.base import Name, Section, missing
from factlife.config.editing import CustomEditor
from factlife.config.influence import CustomRanker
from factlife.config.reachability import reachable_corpora, reachable_models
from factlife.config.training import Scratch, Trained
from factlife.config.worlds import CustomWorld

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
    """Messages about values that are valid on their own but do not fit together, of all that the run can reach."""
    yield from _duplicate_problems(config)
    for name in config.run.models:
        yield from missing("run.models", name, config.models, "models")
    for name in reachable_models(config):
        yield from _model_problems(config, name)
    for name in reachable_corpora(config):
        yield from _corpus_problems(config, name)
    for section in (tracing, circuits, editing, ledger, influence, dynamics, collapse, dictionaries, graphs, written):
        yield from section.problems(config)


def _duplicate_problems(value: Any, where: str = "") -> Iterable[str]:
    """Lists that hold a name twice, in all sections but those whose keys are not ours."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        if len(set(value)) < len(value):
            yield f"{where} has duplicates"
    elif isinstance(value, (Scratch, CustomEditor, CustomRanker, CustomWorld)):
        return
    elif isinstance(value, (Section, Mapping)):
        for name, item in value.items() if isinstance(value, Mapping) else value:
            yield from _duplicate_problems(item, f"{where}.{name}".removeprefix("."))


def _corpus_problems(config: Config, name: Name) -> Iterable[str]:
    corpus = config.corpora[name]
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


def _model_problems(config: Config, name: Name) -> Iterable[str]:
    model = config.models[name]
    yield from _stage_problems(config, name)
    if model.training:
        yield from missing(f"models.{name}.training.corpus", model.training.corpus, config.corpora, "corpora")
    if model.tokenizer:
        yield from missing(f"models.{name}.tokenizer", model.tokenizer, config.tokenizers, "tokenizers")
        if tokenizer := config.tokenizers.get(model.tokenizer):
            where = f"tokenizers.{model.tokenizer}.corpus"
            yield from missing(where, tokenizer.corpus, config.corpora, "corpora")
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


def _stage_problems(config: Config, name: Name) -> Iterable[str]:
    """Stages that lack what they need: a world, or another stage."""
    model = config.models[name]
    if model.world:
        yield from missing(f"models.{name}.world", model.world, config.worlds, "worlds")
    else:
        own_requests = model.editing is not None and model.editing.requests.kind != "world"
        stages = [stage for stage in model.stages if stage != "editing" or not own_requests]
        if stages:
            yield f"models.{name}.world is missing: the stages {', '.join(stages)} need facts; name one of `worlds`"
    if "graphs" in model.stages and "saes" not in model.stages:
        yield f"models.{name}.stages has `graphs` without `saes`, which trains the transcoders that graphs need; add it"
