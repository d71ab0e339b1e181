"""Dynamics: experiments that hold trained models against a control."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config

Comparison = Literal[
    "learning", "extraction", "reversal", "imbalance", "forgetting", "injection", "capacity", "curriculum", "invention"
]


class Experiment(Section):
    """Arms, one of which is the control, and what is compared."""

    comparison: Comparison = key(..., "What is measured; see docs/dynamics.md.")
    arms: dict[Name, list[Name]] = key(
        ..., "Each arm's models in the order in which they were trained: what they recall in turn is its history.",
        min_length=1,
    )  # fmt: skip
    control: Name = key(..., "The arm that all others are held against.")
    seeds: list[Annotated[int, Field(ge=0)]] = key([0], "Seeds of every arm's models.", min_length=1)
    interval_over: Literal["facts", "seeds"] = key(
        "facts",
        "`facts`: intervals over subjects, for each seed; `seeds`: those, and over seeds for all seeds together.",
    )


class Dynamics(Section):
    """How facts are learned, interfere, generalise and fade."""

    experiments: dict[Name, Experiment] = key({}, "Experiments by name; `run.experiments` says which are made.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")


def problems(config: Config) -> Iterable[str]:
    """What experiments ask for and the config does not have."""
    for name in config.run.experiments:
        yield from missing("run.experiments", name, config.dynamics.experiments, "dynamics.experiments")
    for name, experiment in config.dynamics.experiments.items():
        where = f"dynamics.experiments.{name}"
        yield from missing(f"{where}.control", experiment.control, experiment.arms, f"{where}.arms")
        if experiment.control in experiment.arms and len(experiment.arms) < 2:
            yield f"{where}.arms has only the control; add what is held against it"
        for arm, models in experiment.arms.items():
            for model in models:
                yield from missing(f"{where}.arms.{arm}", model, config.models, "models")
            if not models:
                yield f"{where}.arms.{arm} is empty; name the model that it trains"
        if len(set(experiment.seeds)) < len(experiment.seeds):
            yield f"{where}.seeds has duplicates"
        if experiment.interval_over == "seeds" and len(experiment.seeds) < 2:
            yield f"{where}.interval_over is seeds, but there is one seed; give at least two, or set it to facts"
