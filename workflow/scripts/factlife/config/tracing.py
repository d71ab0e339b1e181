"""Settings of causal tracing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Section, key

if TYPE_CHECKING:
    from factlife.config import Config


class Tracing(Section):
    """Causal tracing of the panel's facts."""

    renamed: ClassVar[dict[str, str]] = {"noise": "noise_level", "samples": "noise_samples"}
    moved: ClassVar[dict[str, str]] = {
        "models": "models.*.stages",
        "resamples": "run.resamples",
        "batch_tokens": "models.*.batch_tokens",
    }

    facts: Count = key(200, "Maximum number of facts; facts that the model knows come first, relations take turns.")
    corruptions: list[Literal["replacement", "noise", "same_answer"]] = key(
        ["replacement", "noise", "same_answer"],
        "How the run is corrupted: `replacement` by a subject with a different answer, `noise` on the subject's "
        "embeddings, or, as the control, replacement by a subject with the same answer (`same_answer`).",
        min_length=1,
    )  # fmt: skip
    components: list[Literal["residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen"]] = key(
        ["residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen"],
        "Components to restore; `…_frozen` restores the residual stream while attention or MLPs of later layers stay "
        "corrupted.",
        min_length=1,
    )  # fmt: skip
    windows: list[Count] = key(
        [1, 3], "Widths of the windows of layers in which attention or MLPs are restored together.", min_length=1
    )
    noise_level: float = key(
        3.0, "Standard deviation of the noise, as a multiple of the embeddings' standard deviation.", gt=0
    )
    noise_samples: Count = key(10, "Noise samples per fact.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Random seed for replacement subjects and noise.")


def problems(config: Config) -> Iterable[str]:
    """Problems of this section, one message each."""
    for name, tracing in config.running("tracing"):
        if len(set(tracing.windows)) < len(tracing.windows):
            yield f"models.{name}.tracing.windows has duplicates"
