"""Influence: which documents taught a model a fact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key
from factlife.config.models import Folder, Hub

if TYPE_CHECKING:
    from factlife.config import Config

Loss = Literal["all", "answer"]


class Random(Section):
    """Random scores: the control."""

    kind: Literal["random"] = key(..., "The ranker.")
    seed: int = key(0, "Seed.", ge=0)


class Bm25(Section):
    """Words in common, by BM25."""

    kind: Literal["bm25"] = key(..., "The ranker.")
    answer: bool = key(False, "Search with the prompt and its answer.")
    feedback_terms: int = key(0, "Words of the best documents that join the query; 0 for no feedback.", ge=0)
    feedback_documents: Count = key(10, "Best documents from which these words come.")
    k1: float = key(1.5, "How slowly repetitions of a word saturate.", ge=0)
    b: float = key(0.75, "How much long documents are held back.", ge=0, le=1)


class Tfidf(Section):
    """Words in common, by the cosine of TF-IDF vectors."""

    kind: Literal["tfidf"] = key(..., "The ranker.")
    answer: bool = key(False, "Search with the prompt and its answer.")


class Embedding(Section):
    """Cosine of sentence embeddings."""

    kind: Literal["embedding"] = key(..., "The ranker.")
    source: Annotated[Hub | Folder, Field(discriminator="kind")] = key(
        ..., "An encoder whose embedding is the mean over tokens, such as `sentence-transformers/all-MiniLM-L6-v2`."
    )
    answer: bool = key(False, "Embed the prompt with its answer.")


class Representation(Section):
    """Cosine of hidden states."""

    kind: Literal["representation"] = key(..., "The ranker.")
    layer: int = key(-1, "Whose output is read: 0 is the embedding, -1 the last block.")
    pooling: Literal["mean", "last"] = key("mean", "Mean over a text's tokens, or its last token.")


class Gradient(Section):
    """Exact products of a query's gradient with those of documents."""

    kind: Literal["gradient"] = key(..., "The ranker.")
    score: Literal["dot", "cosine", "centred"] = key(
        "cosine", "`centred` is the cosine less each document's mean over all queries."
    )
    document_loss: Loss = key("answer", "Document loss on all tokens, or on tokens of stated values alone.")
    query_loss: Literal["completion", "margin"] = key(
        "completion", "Cross-entropy of the completion, or its first token's logit against those of other candidates."
    )
    parameters: list[Literal["blocks", "embeddings", "norms"]] = key(
        ["blocks"], "`blocks`: linear maps with their biases; `embeddings` include the unembedding.", min_length=1
    )
    checkpoints: list[int] = key(
        [-1], "Which checkpoints' products are added up: -1 is the last, `[1, 2, 3, 4, 5]` is TracIn's sum.", min_length=1
    )  # fmt: skip


class Kronfluence(Section):
    """Influence functions through Kronfluence."""

    kind: Literal["kronfluence"] = key(..., "The ranker.")
    strategy: Literal["ekfac", "kfac", "diagonal", "identity"] = key("ekfac", "Approximation of the curvature.")
    damping: float | None = key(None, "Added to eigenvalues; empty for a tenth of their mean.", ge=0)
    unit_norm: bool = key(True, "Divide by the norm of each document's gradient.")
    document_loss: Loss = key("answer", "Document loss on all tokens, or on tokens of stated values alone.")
    factor_documents: Count = key(500, "Documents, chosen at random, from which the curvature is estimated.")
    seed: int = key(0, "Seed of that choice, and of the labels that the model draws.", ge=0)


class Bergson(Section):
    """Random projections of gradients through Bergson."""

    kind: Literal["bergson"] = key(..., "The ranker.")
    method: Literal["trackstar", "ekfac", "trak", "dot"] = key(
        "trackstar", "Pipeline; `dot` is the plain product of gradients."
    )
    projection: int = key(16, "Side of each weight's projected gradient; 0 for none (`dot` and `ekfac` alone).", ge=0)
    damping: float = key(0.1, "Added to eigenvalues, in means of them.", ge=0)
    document_loss: Loss = key("answer", "Document loss on all tokens, or on tokens of stated values alone.")


Ranker = Annotated[
    Random | Bm25 | Tfidf | Embedding | Representation | Gradient | Kronfluence | Bergson, Field(discriminator="kind")
]

# Kinds of rankers by what ranks: words alone, or a model.
ROOMS = {
    "text": ("random", "bm25", "tfidf"),
    "embedding": ("embedding",),
    "neural": ("representation", "gradient"),
    "kronfluence": ("kronfluence",),
    "bergson": ("bergson",),
}


class Removal(Section):
    """Models retrained without the documents that rankers put first, against random ones and random relevant ones."""

    k: Count = key(100, "Documents that are left out: every query's first, then every query's second, and so on.")
    rankers: list[Name] = key([], "Whose first documents are left out.")
    repeats: Annotated[int, Field(ge=2)] = key(5, "Models without the same documents, of different seeds.")
    seed: int = key(0, "Seed of the random documents.", ge=0)


class Retraining(Section):
    """Models retrained without some documents, one bank for all rankers: what documents did, by taking them away."""

    subsets: Annotated[int, Field(ge=3)] = key(32, "Random subsets of the ranked documents.")
    share: float = key(0.5, "Share of documents that a subset keeps.", gt=0, lt=1)
    leave_one_out: int = key(0, "Documents that are left out one by one, chosen at random.", ge=0)
    repeats: Count = key(2, "Models on the same documents, of different seeds: their losses are averaged.")
    shards: Count = key(4, "Jobs among which the models are dealt.")
    removal: Removal | None = key(None, "Removal of what rankers put first; empty for none.")
    seed: int = key(0, "Seed of the subsets.", ge=0)


class TailPatch(Section):
    """One training step on each of the documents that rankers put first, against random documents."""

    k: Count = key(5, "Documents of each query and ranker, and random ones of each query.")
    rate: float = key(0.1, "Share of the full learning rates at which the model is trained on.", gt=0)
    seed: int = key(0, "Seed of the random documents.", ge=0)


class Attribution(Section):
    """What a model is asked, and which documents are ranked for it."""

    rankers: list[Name] = key([], "Rankers that are run, by name.")
    corpus: Name | None = key(None, "Whose documents are ranked; empty for what the model was trained on.")
    kinds: list[str] = key(["forward", "multi_hop"], "Kinds of probes that are attributed.", min_length=1)
    relations: list[str] | None = key(None, "Relations that are asked about; empty for all.")
    panel: bool = key(False, "Ask about facts of the panel alone.")
    probes_per_fact: Count = key(1, "Probes of each fact, at most.")
    documents: Count | None = key(None, "Documents that are ranked, chosen at random; empty for all.")
    seed: int = key(0, "Seed of that choice.", ge=0)
    retraining: Retraining | None = key(None, "Models retrained without some documents; empty for none.")
    tail_patch: TailPatch | None = key(None, "Single training steps on what rankers put first; empty for none.")


class Point(Section):
    """One ranker of one model, at a value of what is changed."""

    at: float = key(..., "The value.")
    model: Name = key(..., "Whose documents are ranked.")
    ranker: Name = key(..., "By what.")
    curve: str = key(..., "The curve that the point is on.")


class Sweep(Section):
    """A setting that is changed while others stay: scores of rankers against it."""

    title: str = key(..., "What is changed, as the figure says it.")
    log: bool = key(False, "Draw it on a logarithmic axis.")
    points: list[Point] = key(
        ..., "Rankers and models that differ in it; only models of `run.models` are drawn.", min_length=1
    )


class Influence(Section):
    """Rankers of training documents, and how they are judged."""

    models: dict[str, Attribution] = key({}, "What is attributed, by model; only models of `run.models` are.")
    rankers: dict[Name, Ranker] = key({}, "Rankers by name.")
    sweeps: dict[Name, Sweep] = key({}, "Scores against a setting, one panel of a figure each.")
    k: list[Count] = key([1, 5, 10, 50], "Lengths of the lists that are judged.", min_length=1)
    batch_tokens: Count = key(2048, "Tokens of a batch, padding included; no score depends on it.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")


def corpus_of(config: Config, model: str) -> str | None:
    """Whose documents are ranked for a model."""
    training = config.models[model].training
    return config.influence.models[model].corpus or (training.corpus if training else None)


def problems(config: Config) -> Iterable[str]:
    """What a checked section cannot know: names in other sections."""
    for name, attribution in config.influence.models.items():
        where = f"influence.models.{name}"
        if name not in config.models:
            yield f"{where}: there is no model `{name}`; there are {', '.join(config.models)}"
            continue
        for ranker in attribution.rankers:
            if ranker not in config.influence.rankers:
                yield f"{where}.rankers has `{ranker}`; there are {', '.join(config.influence.rankers) or 'none'}"
        corpus = corpus_of(config, name)
        if corpus is None:
            yield f"{where}.corpus is missing: the model was trained elsewhere, so say whose documents are ranked"
        elif corpus not in config.corpora:
            yield f"{where}.corpus is `{corpus}`, which is not in corpora"
        elif (world := getattr(config.corpora[corpus], "world", None)) != config.models[name].world:
            yield f"{where}: corpus `{corpus}` is of world `{world}`, the model is asked about `{config.models[name].world}`"
        removal = attribution.retraining.removal if attribution.retraining else None
        for ranker in removal.rankers if removal else []:
            if ranker not in attribution.rankers:
                yield f"{where}.retraining.removal.rankers has `{ranker}`, which is not in {where}.rankers"
        if attribution.retraining and config.models[name].training is None:
            yield f"{where}.retraining: the model has no `training`, so nobody knows how to train it again"
        if attribution.retraining and config.models[name].source.kind == "trained":
            yield f"{where}.retraining: the model goes on from another one, which would have to be trained again too"
        if attribution.tail_patch and config.models[name].training is None:
            yield f"{where}.tail_patch: the model has no `training`, so nobody knows how a step of it is made"
        for ranker in attribution.rankers:
            settings = config.influence.rankers.get(ranker)
            training = config.models[name].training
            if settings and settings.kind == "gradient" and training:
                wrong = [at for at in settings.checkpoints if not -training.checkpoints <= at < training.checkpoints]
                if wrong:
                    yield f"influence.rankers.{ranker}.checkpoints has {wrong[0]}, but models.{name} has {training.checkpoints}"
    for name, sweep in config.influence.sweeps.items():
        for point in sweep.points:
            ranked = config.influence.models.get(point.model)
            if ranked is None or point.ranker not in ranked.rankers:
                yield (
                    f"influence.sweeps.{name} has ranker `{point.ranker}` of model `{point.model}`, which is not in "
                    f"influence.models.{point.model}.rankers"
                )
