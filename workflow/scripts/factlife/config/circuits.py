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
    relations: list[str] = key(
        ["major"], "Relations, whose values must be single tokens unless `first_token` is set.", min_length=1
    )
    nodes: bool = key(
        False,
        "Circuits of whole heads and MLPs instead of edges; the only ones where attention and MLPs write through norms "
        "(Gemma 2, OLMo 2).",
    )  # fmt: skip
    methods: list[Literal["eap_ig", "eap", "exact", "denoising"]] = key(
        ["eap_ig"],
        "How edges are scored: gradients integrated from the corrupted to the clean input, the clean run's gradient, or "
        "one run for each edge: the clean run with that edge corrupted, or the corrupted run with that edge clean. The "
        "first is the one whose circuits are followed over training.",
        min_length=1,
    )  # fmt: skip
    first_token: bool = key(
        False, "Explain the first token of answers that have several; otherwise such an answer is an error."
    )
    budget: float = key(0.15, "Share of edges that a circuit may have.", gt=0, le=1)
    pairs: Annotated[int, Field(ge=2)] = key(48, "Prompts on which circuits are found, at most.")
    held_out: Annotated[int, Field(ge=2)] = key(
        32, "Prompts about other subjects on which they are validated, at most."
    )
    random: Count = key(200, "Random circuits, with as many edges of each kind, as the control.")
    minimality: Count = key(30, "Edges of a circuit that are taken out, one at a time, and edges that are put in.")
    bootstrap: Annotated[int, Field(ge=2)] = key(100, "Circuits found on resampled subjects, for stability.")
    automatic: int = key(
        3, "Parts for which hypotheses are made, of the strongest and as many of the weakest, for each relation.", ge=0
    )
    smallest_effect: float = key(0.05, "Of interest in those hypotheses, as a share of the logit difference.", gt=0)
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")
    batch_tokens: Count = key(4096, "Tokens in a forward pass; no result depends on it but in the last digits.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Of the division of subjects and of random circuits.")


class Hypothesis(Section):
    """What a part of a model is said to do, tested by knocking it out."""

    claim: str = key(..., "In words.")
    component: Annotated[str, Field(pattern=r"^(a\d+(\.h\d+)?|m\d+)$")] = key(
        ..., "A head `a1.h3`, all heads of a layer `a1`, or an MLP `m1`."
    )
    relation: str = key(..., "Whose held-out prompts are the test; one of `circuits.relations`.")
    direction: Literal["lowers", "raises"] = key(
        "lowers", "What knocking the part out does to the answer's logit difference."
    )
    smallest_effect: float = key(0.1, "Of interest, as a share of the logit difference.", gt=0)


def problems(config: Config) -> Iterable[str]:
    """What in the section cannot be run."""
    for name in config.circuits.models:
        yield from missing("circuits.models", name, config.models, "models")
    for field in ("models", "relations", "methods"):
        if len(set(values := getattr(config.circuits, field))) < len(values):
            yield f"circuits.{field} has duplicates"
    for name, hypothesis in config.hypotheses.items():
        if hypothesis.relation not in config.circuits.relations:
            yield (
                f"hypotheses.{name}.relation is `{hypothesis.relation}`, which is not in circuits.relations; there are "
                f"{', '.join(config.circuits.relations)}"
            )
