"""Settings of influence: which documents taught a model a fact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing
from factlife.config.imports import importable
from factlife.config.training import Folder, Hub

if TYPE_CHECKING:
    from factlife.config import Config

DocumentLoss = Literal["all_tokens", "answer_tokens"]


class Random(Section):
    """Random scores, the control."""

    kind: Literal["random"] = key(..., "The ranker.")
    seed: int = key(0, "Random seed.", ge=0)


class Bm25(Section):
    """BM25 word overlap."""

    kind: Literal["bm25"] = key(..., "The ranker.")
    include_answer: bool = key(False, "Search with the prompt and its answer.")
    feedback_terms: int = key(
        0, "Words of the best documents to add to the query (pseudo-relevance feedback); 0 for no feedback.", ge=0
    )
    feedback_documents: Count = key(10, "Best documents to take feedback words from.")
    k1: float = key(1.5, "Term frequency saturation.", ge=0)
    b: float = key(0.75, "Strength of document-length normalisation.", ge=0, le=1)
    renamed: ClassVar[dict[str, str]] = {"answer": "include_answer"}


class Tfidf(Section):
    """Cosine similarity of TF-IDF vectors."""

    kind: Literal["tfidf"] = key(..., "The ranker.")
    include_answer: bool = key(False, "Search with the prompt and its answer.")
    renamed: ClassVar[dict[str, str]] = {"answer": "include_answer"}


class Embedding(Section):
    """Cosine similarity of sentence embeddings."""

    kind: Literal["embedding"] = key(..., "The ranker.")
    source: Annotated[Hub | Folder, Field(discriminator="kind")] = key(
        ..., "A mean-pooling sentence encoder, such as `sentence-transformers/all-MiniLM-L6-v2`."
    )
    include_answer: bool = key(False, "Embed the prompt with its answer.")
    renamed: ClassVar[dict[str, str]] = {"answer": "include_answer"}


class Representation(Section):
    """Cosine similarity of hidden states."""

    kind: Literal["representation"] = key(..., "The ranker.")
    layer: int = key(-1, "Layer whose output is compared: 0 is the embedding, -1 the last block.")
    pooling: Literal["mean", "last"] = key("mean", "Mean over all tokens of a text, or its last token.")


class Gradient(Section):
    """Exact inner products of query and document gradients."""

    kind: Literal["gradient"] = key(..., "The ranker.")
    score: Literal["dot", "cosine", "centred"] = key(
        "cosine", "Inner product or cosine; `centred` is the cosine minus each document's mean over all queries."
    )
    document_loss: DocumentLoss = key(
        "answer_tokens", "Document tokens whose loss counts: all, or only those of stated values."
    )
    query_loss: Literal["completion", "margin"] = key(
        "completion",
        "Cross-entropy of the completion, or the logit margin of its first token over the other candidates.",
    )
    parameters: list[Literal["blocks", "embeddings", "norms"]] = key(
        ["blocks"],
        "Parameters to differentiate: `blocks` are linear layers with biases; `embeddings` include the unembedding.",
        min_length=1,
    )
    checkpoints: list[int] = key(
        [-1], "Checkpoints to sum over (TracIn): -1 is the last, `[1, 2, 3, 4, 5]` the first five after the start.",
        min_length=1,
    )  # fmt: skip


class Kronfluence(Section):
    """Influence functions with Kronfluence."""

    kind: Literal["kronfluence"] = key(..., "The ranker.")
    strategy: Literal["ekfac", "kfac", "diagonal", "identity"] = key("ekfac", "Approximation of the Hessian.")
    damping_factor: float | None = key(None, "Damping added to the eigenvalues; null uses 0.1 times their mean.", ge=0)
    unit_normalize: bool = key(True, "Divide scores by the norm of the document gradient.")
    document_loss: DocumentLoss = key(
        "answer_tokens", "Document tokens whose loss counts: all, or only those of stated values."
    )
    factor_documents: Count = key(500, "Random documents for estimating the Hessian factors.")
    seed: int = key(0, "Seed for choosing these documents and for sampling labels.", ge=0)
    renamed: ClassVar[dict[str, str]] = {"damping": "damping_factor", "unit_norm": "unit_normalize"}


class Bergson(Section):
    """Projected gradients and other methods of Bergson."""

    kind: Literal["bergson"] = key(..., "The ranker.")
    method: Literal["trackstar", "ekfac", "trak", "dot"] = key(
        "trackstar", "Pipeline; `dot` is the plain inner product of gradients."
    )
    projection_dim: int = key(
        16, "Each side of a projected weight gradient; 0 disables projection (`dot` and `ekfac` only).", ge=0
    )
    damping_factor: float = key(0.1, "Damping added to the eigenvalues, relative to their mean.", ge=0)
    document_loss: DocumentLoss = key(
        "answer_tokens", "Document tokens whose loss counts: all, or only those of stated values."
    )
    renamed: ClassVar[dict[str, str]] = {"damping": "damping_factor", "projection": "projection_dim"}


class CustomRanker(Section):
    """Base class of a ranker of your own: settings, and a method that scores documents.

    Attributes:
        backend: rule that runs it: `lexical` without the model, `model` with it.
    """

    kind: str = key(..., "Import path of the class, `package.module:Class`.")
    backend: ClassVar[Literal["lexical", "model"]] = "lexical"

    def rank(self, queries: Any, documents: Any, *, model: Any = None, tokenizer: Any = None) -> Any:
        """Scores of all documents for all queries, higher for documents that matter more.

        Args:
            queries: with columns ``prompt`` and ``completion``.
            documents: with the column ``text``.
            model: the model whose facts are traced, for the backend `model`.
            tokenizer: its tokenizer.

        Returns:
            Scores, (queries, documents).
        """
        raise NotImplementedError


Ranker = Annotated[
    Random | Bm25 | Tfidf | Embedding | Representation | Gradient | Kronfluence | Bergson,
    Field(discriminator="kind"),
    importable(CustomRanker),
]

# Kinds of rankers by backend: each backend has a rule, an environment and inputs of its own.
BACKENDS = {
    "lexical": ("random", "bm25", "tfidf"),
    "embedding": ("embedding",),
    "model": ("representation", "gradient"),
    "kronfluence": ("kronfluence",),
    "bergson": ("bergson",),
}


def backend_of(ranker: Any) -> str:
    """The backend that runs a ranker."""
    if isinstance(ranker, CustomRanker):
        return ranker.backend
    return next(backend for backend, kinds in BACKENDS.items() if ranker.kind in kinds)


class TopKRemoval(Section):
    """Models retrained without each ranker's top documents; controls remove random or random relevant documents."""

    k: Count = key(100, "Documents to remove: the top document of every query, then every second one, and so on.")
    rankers: list[Name] = key([], "Rankers whose top documents are removed.")
    repeats: Annotated[int, Field(ge=2)] = key(5, "Models per removed set, with different seeds.")
    seed: int = key(0, "Seed for choosing the control documents.", ge=0)


class RetrainedModels(Section):
    """Models retrained on subsets of the documents. All rankers are evaluated against the same models."""

    subsets: Annotated[int, Field(ge=3)] = key(32, "Random subsets of the ranked documents.")
    subset_fraction: float = key(0.5, "Fraction of documents in each subset.", gt=0, lt=1)
    leave_one_out: int = key(0, "Random documents to leave out one at a time.", ge=0)
    repeats: Count = key(2, "Models per subset, with different seeds; their losses are averaged.")
    shards: Count = key(4, "Jobs to split the models among.")
    top_k_removal: TopKRemoval | None = key(None, "Removal of each ranker's top documents; null disables it.")
    seed: int = key(0, "Seed for choosing the subsets.", ge=0)
    renamed: ClassVar[dict[str, str]] = {"share": "subset_fraction", "removal": "top_k_removal"}


class TailPatch(Section):
    """One training step on each top document of a ranker, compared with random documents."""

    k: Count = key(5, "Top documents per query and ranker, and random documents per query.")
    learning_rate_fraction: float = key(0.1, "Learning rates of the step, relative to those of training.", gt=0)
    seed: int = key(0, "Seed for choosing the random documents.", ge=0)
    renamed: ClassVar[dict[str, str]] = {"rate": "learning_rate_fraction"}


class InfluenceSettings(Section):
    """Queries to a model, and the documents to rank for them."""

    rankers: list[Name] = key([], "Names of the rankers to run.")
    corpus: Name | None = key(None, "Corpus whose documents are ranked; null uses the model's training corpus.")
    probe_kinds: list[str] = key(["forward", "multi_hop"], "Kinds of probes used as queries.", min_length=1)
    relations: list[str] | None = key(None, "Relations to query; null uses all.")
    panel_only: bool = key(False, "Query only facts of the panel.")
    probes_per_fact: Count = key(1, "Maximum number of probes per fact.")
    documents: Count | None = key(None, "Number of documents to rank, chosen at random; null ranks all.")
    seed: int = key(0, "Seed for choosing the documents.", ge=0)
    retrained_models: RetrainedModels | None = key(
        None, "Models retrained on subsets of the documents; null disables it."
    )
    tail_patch: TailPatch | None = key(None, "Single training steps on top-ranked documents; null disables it.")
    renamed: ClassVar[dict[str, str]] = {
        "kinds": "probe_kinds",
        "panel": "panel_only",
        "retraining": "retrained_models",
    }


class SweepPoint(Section):
    """One ranker of one model, at one value of the swept setting."""

    value: float = key(..., "Value of the setting.")
    model: Name = key(..., "Model whose documents are ranked.")
    ranker: Name = key(..., "Name of the ranker.")
    curve: str = key(..., "Curve to which the point belongs.")
    renamed: ClassVar[dict[str, str]] = {"at": "value"}


class Sweep(Section):
    """Ranker scores as a function of one setting, with all other settings fixed."""

    title: str = key(..., "Axis title of the setting.")
    log_scale: bool = key(False, "Use a logarithmic axis.")
    points: list[SweepPoint] = key(
        ..., "Rankers and models that differ in the setting; only models of `run.models` are plotted.", min_length=1
    )
    renamed: ClassVar[dict[str, str]] = {"log": "log_scale"}


class Influence(Section):
    """Evaluation of rankers, for all models."""

    moved: ClassVar[dict[str, str]] = {
        "models": "models.*.influence",
        "rankers": "rankers",
        "resamples": "run.resamples",
        "batch_tokens": "models.*.batch_tokens",
    }

    sweeps: dict[Name, Sweep] = key({}, "Ranker scores as a function of a setting, one row of the figure each.")
    k: list[Count] = key([1, 5, 10, 50], "Cutoffs of recall@k and other top-k metrics.", min_length=1)
    headline_k: Count = key(10, "Cutoff shown in figures; one of `k`.")


def ranked_corpus(config: Config, model: str) -> str | None:
    """Name of the corpus whose documents are ranked for a model."""
    influence, training = config.models[model].influence, config.models[model].training
    if influence and influence.corpus:
        return influence.corpus
    return training.corpus if training else None


def problems(config: Config) -> Iterable[str]:
    """References to other sections that do not resolve."""
    if config.influence.headline_k not in config.influence.k:
        yield f"influence.headline_k is {config.influence.headline_k}, which is not in influence.k"
    if len(set(config.influence.k)) < len(config.influence.k):
        yield "influence.k has duplicates"
    for name, settings in config.running("influence"):
        where = f"models.{name}.influence"
        for ranker in settings.rankers:
            yield from missing(f"{where}.rankers", ranker, config.rankers, "rankers")
        corpus = ranked_corpus(config, name)
        if corpus is None:
            yield f"{where}.corpus is missing: the model has no training corpus here, so name the corpus to rank"
        elif corpus not in config.corpora:
            yield f"{where}.corpus is `{corpus}`, which is not in corpora"
        elif (world := getattr(config.corpora[corpus], "world", None)) != config.models[name].world:
            yield f"{where}: corpus `{corpus}` is of world `{world}`, but the model's world is `{config.models[name].world}`"
        removal = settings.retrained_models.top_k_removal if settings.retrained_models else None
        for ranker in removal.rankers if removal else []:
            if ranker not in settings.rankers:
                yield f"{where}.retrained_models.top_k_removal.rankers has `{ranker}`, which is not in {where}.rankers"
        if settings.retrained_models and config.models[name].training is None:
            yield f"{where}.retrained_models: the model has no `training`, so it cannot be retrained"
        if settings.retrained_models and config.models[name].source.kind == "trained":
            yield f"{where}.retrained_models: the model starts from another model, which would need retraining too"
        if settings.tail_patch and config.models[name].training is None:
            yield f"{where}.tail_patch: the model has no `training`, so no training step is defined"
        for ranker in settings.rankers:
            ranker_settings = config.rankers.get(ranker)
            training = config.models[name].training
            if ranker_settings and ranker_settings.kind == "gradient" and training:
                count = training.checkpoints
                unknown = [index for index in ranker_settings.checkpoints if not -count <= index < count]
                if unknown:
                    yield f"rankers.{ranker}.checkpoints has {unknown[0]}, but models.{name} has {count}"
    for name, sweep in config.influence.sweeps.items():
        for point in sweep.points:
            settings = config.models[point.model].influence if point.model in config.run.models else None
            if settings and point.ranker not in settings.rankers:
                yield (
                    f"influence.sweeps.{name} has ranker `{point.ranker}` of model `{point.model}`, which is not in "
                    f"models.{point.model}.influence.rankers"
                )
