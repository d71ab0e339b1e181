"""Circuits: how they are found and validated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config


class Circuits(Section):
    """Circuits of relations: which edges between heads and MLPs an answer goes through."""

    models: list[Name] = key([], "Models, of those that are run, whose circuits are found.")
    relations: list[str] = key(["major"], "Relations, whose values must be single tokens.", min_length=1)
    methods: list[Literal["eap_ig", "eap", "exact"]] = key(
        ["eap_ig"],
        "How edges are scored: gradients integrated from the corrupted to the clean input, the clean run's gradient, or "
        "one run for each edge. The first is the one whose circuits are followed over training.",
        min_length=1,
    )  # fmt: skip
    budget: float = key(0.15, "Share of edges that a circuit may have.", gt=0, le=1)
    pairs: Annotated[int, Field(ge=2)] = key(48, "Prompts on which circuits are found, at most.")
    held_out: Annotated[int, Field(ge=2)] = key(
        32, "Prompts about other subjects on which they are validated, at most."
    )
    random: Count = key(200, "Random circuits, with as many edges of each kind, as the control.")
    minimality: Count = key(30, "Edges of a circuit that are taken out, one at a time, and edges that are put in.")
    bootstrap: Annotated[int, Field(ge=2)] = key(100, "Circuits found on resampled subjects, for stability.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")
    batch_tokens: Count = key(4096, "Tokens in a forward pass; no result depends on it but in the last digits.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Of the division of subjects and of random circuits.")


def problems(config: Config) -> Iterable[str]:
    """What in the section cannot be run."""
    for name in config.circuits.models:
        yield from missing("circuits.models", name, config.models, "models")
    for field in ("models", "relations", "methods"):
        if len(set(values := getattr(config.circuits, field))) < len(values):
            yield f"circuits.{field} has duplicates"
