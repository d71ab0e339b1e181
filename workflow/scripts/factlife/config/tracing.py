"""Tracing: how facts are located."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config


class Tracing(Section):
    """Causal tracing of the panel's facts."""

    models: list[Name] = key([], "Models, of those that are run, whose facts are located.")
    facts: Count = key(200, "Facts at most; those that the model knows come first, relations in turn.")
    corruptions: list[Literal["replacement", "noise", "same_answer"]] = key(
        ["replacement", "noise", "same_answer"],
        "How runs are corrupted: another subject with another answer; noise on the subject's embeddings; and, as the "
        "control, another subject with the same answer.",
        min_length=1,
    )  # fmt: skip
    components: list[Literal["residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen"]] = key(
        ["residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen"],
        "What is restored; `…_frozen` restores the residual stream while later layers' attention or MLPs stay corrupted.",
        min_length=1,
    )  # fmt: skip
    windows: list[Count] = key(
        [1, 3], "Layers of attention or MLP that are restored together, around each layer.", min_length=1
    )
    noise: float = key(3.0, "Standard deviation of the noise, in those of the embeddings.", gt=0)
    samples: Count = key(10, "Draws of noise for each fact.")
    batch_tokens: Count = key(8192, "Tokens in a forward pass; no effect depends on it but in the last digits.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Of the other subjects and of the noise.")


def problems(config: Config) -> Iterable[str]:
    """What in the section cannot be run."""
    for name in config.tracing.models:
        yield from missing("tracing.models", name, config.models, "models")
    for field in ("models", "corruptions", "components", "windows"):
        if len(set(values := getattr(config.tracing, field))) < len(values):
            yield f"tracing.{field} has duplicates"
