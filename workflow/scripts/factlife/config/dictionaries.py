"""Settings of sparse autoencoders and transcoders: site, architecture and training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config


class _Dictionary(Section):
    renamed: ClassVar[dict[str, str]] = {
        "features": "expansion_factor",
        "tokens": "training_tokens",
        "batch_tokens": "train_batch_size_tokens",
        "uses": "activation_reuse",
        "dead_after": "dead_feature_tokens",
        "held_out": "held_out_fraction",
        "described_tokens": "example_tokens",
    }
    moved: ClassVar[dict[str, str]] = {"models": "models.*.saes.dictionaries", "resamples": "run.resamples"}

    kind: str
    architecture: Literal["batchtopk", "matryoshka_batchtopk", "topk", "jumprelu", "standard"] = key(
        "batchtopk", "Architecture, under SAELens' name; it sets how features are kept sparse."
    )
    corpus: Name | None = key(
        None, "Training text; null uses the model's training corpus, or `prose` for a model that is not trained here."
    )
    expansion_factor: Count = key(4, "Number of features per input dimension.")
    k: Count = key(32, "Active features per token, on average (`topk`: at most).")
    training_tokens: Count = key(200_000, "Tokens to train on; a shorter corpus is read several times.")
    train_batch_size_tokens: Count = key(1024, "Tokens per training step.")
    activation_reuse: Count = key(3, "Times that each activation is used before new text is read.")
    learning_rate: float = key(0.01, "Learning rate of Adam.", gt=0)
    dead_feature_tokens: Count = key(
        5_000, "Tokens without activation after which a feature counts as dead and is revived."
    )
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = key(
        0.05, "Fraction of documents held out for evaluation, if the corpus has no held-out documents."
    )
    evaluation: Literal["full", "reconstruction"] = key(
        "full",
        "`full`: all metrics; `reconstruction`: only metrics that need no extra forward pass per layer, for large models.",
    )
    evaluation_tokens: Count = key(4000, "Approximate number of held-out tokens for the metrics.")
    example_tokens: Count = key(
        30_000, "Approximate number of tokens to search for the examples that activate each feature most."
    )
    seed: int = key(0, "Seed of the initial weights and of the order of activations.", ge=0)


class Sae(_Dictionary):
    """Sparse autoencoders, one for every layer of a model."""

    kind: Literal["sae"] = key(..., "Kind of dictionary.")
    site: Literal["residual", "attention", "mlp"] = key(
        "residual",
        "Activations to reconstruct. `residual`: the output of a block; `attention`, `mlp`: the output of that part.",
    )


class Transcoder(_Dictionary):
    """Transcoders, which predict the output of an MLP from its input, one for every layer of a model."""

    kind: Literal["transcoder"] = key(..., "Kind of dictionary.")

    @property
    def site(self) -> Literal["transcoder"]:
        """The site, for code that treats both kinds of dictionaries alike."""
        return "transcoder"


DictionarySettings = Annotated[Sae | Transcoder, Field(discriminator="kind")]


class ModelDictionaries(Section):
    """Dictionaries to train on a model's activations."""

    dictionaries: list[Name] = key(
        ["transcoder"], "Dictionaries to train, of `dictionaries`, or kinds of dictionaries with their defaults."
    )


def dictionary_corpus(config: Config, model: Name, dictionary: Name) -> Name:
    """The corpus on which a model's dictionary is trained."""
    training = config.models[model].training
    return config.dictionaries[dictionary].corpus or (training.corpus if training else "prose")


def problems(config: Config) -> Iterator[str]:
    """Errors that involve other sections of the config."""
    for model, settings in config.running("saes"):
        where = f"models.{model}.saes.dictionaries"
        for name in settings.dictionaries:
            yield from missing(where, name, config.dictionaries, "dictionaries")
            if name not in config.dictionaries:
                continue
            corpus = dictionary_corpus(config, model, name)
            yield from missing(f"dictionaries.{name}.corpus", corpus, config.corpora, "corpora")
