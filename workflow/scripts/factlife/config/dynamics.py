"""Dynamics: experiments that hold trained models against a control."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
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
    factors: dict[Name, list[Name]] = key(
        {},
        "Factors that arms cross, and the arms in which each is high: main effects and interactions become rows. There "
        "must be one arm for every combination.",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = key([0], "Seeds of every arm's models.", min_length=1)
    interval_over: Literal["facts", "seeds"] = key(
        "facts",
        "`facts`: intervals over subjects, for each seed; `seeds`: those, and over seeds for all seeds together.",
    )

    def levels(self, arm: str) -> dict[str, bool]:
        """Of each factor, whether it is high in an arm."""
        return {factor: arm in high for factor, high in self.factors.items()}


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
        yield from _uncrossed(where, experiment)
        if len(set(experiment.seeds)) < len(experiment.seeds):
            yield f"{where}.seeds has duplicates"
        if experiment.interval_over == "seeds" and len(experiment.seeds) < 2:
            yield f"{where}.interval_over is seeds, but there is one seed; give at least two, or set it to facts"


def _uncrossed(where: str, experiment: Experiment) -> list[str]:
    """Combinations of factors that have no arm or several."""
    unknown = [
        problem
        for factor, arms in experiment.factors.items()
        for arm in arms
        for problem in missing(f"{where}.factors.{factor}", arm, experiment.arms, f"{where}.arms")
    ]
    if unknown or not experiment.factors:
        return unknown
    problems = []
    for high in product((False, True), repeat=len(experiment.factors)):
        levels = dict(zip(experiment.factors, high, strict=True))
        found = [arm for arm in experiment.arms if experiment.levels(arm) == levels]
        if len(found) != 1:
            named = ", ".join(f"{factor} {'high' if level else 'low'}" for factor, level in levels.items())
            problems.append(f"{where}.factors needs one arm with {named}, and has {' and '.join(found) or 'none'}")
    return problems
