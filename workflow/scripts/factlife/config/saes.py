"""Sparse autoencoders and transcoders: where they read, and how they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing


class Sae(Section):
    """Sparse autoencoders, or transcoders, of every layer of some models."""

    models: list[Name] = key([], "Models that get them.")
    site: Literal["residual", "attention", "mlp", "transcoder"] = key(
        "residual",
        "`residual`: what a block returns; `attention`, `mlp`: what they write; `transcoder`: what the MLP writes, "
        "from what it reads.",
    )
    architecture: Literal["batchtopk", "matryoshka", "topk", "jumprelu", "l1"] = key(
        "batchtopk", "How features are kept sparse."
    )
    corpus: Name | None = key(None, "Text on which they are trained; empty for what the model was trained on.")
    features: Count = key(4, "Features for each dimension of what is read.")
    k: Count = key(32, "Active features at a position, on average (`topk`: at most).")
    tokens: Count = key(200_000, "Tokens in training; shorter text is read several times.")
    batch_tokens: Count = key(1024, "Tokens in a step.")
    uses: Count = key(3, "Steps in which each activation is used before new text is read.")
    learning_rate: float = key(0.01, "Of Adam.", gt=0)
    dead_after: Count = key(5_000, "Tokens without activation after which a feature is revived.")
    held_out: Annotated[float, Field(gt=0, lt=1)] = key(
        0.05, "Share of documents for evaluation only, where the corpus holds out none."
    )
    evaluation: Literal["full", "reconstruction"] = key(
        "full",
        "`full`: all metrics; `reconstruction`: those that need no further pass of the model for each layer, for large ones.",
    )
    evaluation_tokens: Count = key(4000, "Tokens of held-out text for metrics, about.")
    described_tokens: Count = key(30_000, "Tokens in which features' best examples are looked for, about.")
    resamples: Count = key(500, "Bootstrap resamples behind every interval.")
    seed: int = key(0, "Of initial weights and the order of activations.", ge=0)


def problems(config: Any) -> Iterator[str]:
    """What is wrong across sections."""
    for name, sae in config.saes.items():
        for model in sae.models:
            yield from missing(f"saes.{name}.models", model, config.models, "models")
            if model in config.models and not (sae.corpus or config.models[model].training):
                yield f"saes.{name}.corpus is missing: `{model}` is not trained here, so its text must be named"
        if sae.corpus:
            yield from missing(f"saes.{name}.corpus", sae.corpus, config.corpora, "corpora")
