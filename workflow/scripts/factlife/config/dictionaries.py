"""Settings of sparse autoencoders and transcoders: site, architecture and training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing


class DictionarySettings(Section):
    """Sparse autoencoders or transcoders, one for every layer of a model."""

    renamed: ClassVar[dict[str, str]] = {
        "features": "expansion_factor",
        "tokens": "training_tokens",
        "batch_tokens": "train_batch_size_tokens",
        "uses": "activation_reuse",
        "dead_after": "dead_feature_tokens",
        "held_out": "held_out_fraction",
        "described_tokens": "example_tokens",
    }

    models: list[Name] = key([], "Models to train them on.")
    site: Literal["residual", "attention", "mlp", "transcoder"] = key(
        "residual",
        "Activations to reconstruct. `residual`: the output of a block; `attention`, `mlp`: the output of that part; "
        "`transcoder`: the output of the MLP, from its input.",
    )
    architecture: Literal["batchtopk", "matryoshka_batchtopk", "topk", "jumprelu", "standard"] = key(
        "batchtopk", "Architecture, under SAELens' name; it sets how features are kept sparse."
    )
    corpus: Name | None = key(None, "Training text; null uses the model's own training corpus.")
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
    resamples: Count = key(500, "Bootstrap resamples for each interval.")
    seed: int = key(0, "Seed of the initial weights and of the order of activations.", ge=0)


def problems(config: Any) -> Iterator[str]:
    """Errors that involve other sections of the config."""
    for name, dictionary in config.dictionaries.items():
        for model in dictionary.models:
            yield from missing(f"dictionaries.{name}.models", model, config.models, "models")
            if model in config.models and not (dictionary.corpus or config.models[model].training):
                yield (
                    f"dictionaries.{name}.corpus is missing: this config does not train `{model}`, so name a corpus to "
                    "train the dictionary on"
                )
        if dictionary.corpus:
            yield from missing(f"dictionaries.{name}.corpus", dictionary.corpus, config.corpora, "corpora")
