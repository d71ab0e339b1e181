"""Dynamics: experiments that compare trained models with a control."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config

Comparison = Literal[
    "learning", "extraction", "reversal", "imbalance", "forgetting", "injection", "capacity", "curriculum", "hallucination"
]  # fmt: skip


class Experiment(Section):
    """A comparison of several arms with a control arm."""

    comparison: Comparison = key(..., "The metrics to compare; see docs/dynamics.md.")
    arms: dict[Name, list[Name]] = key(
        ..., "Each arm's models, in the order in which they were trained.",
        min_length=1,
    )  # fmt: skip
    control: Name = key(..., "The arm that all others are compared with.")
    factors: dict[Name, list[Name]] = key(
        {},
        "Factors of a full factorial design, each with the arms in which it is high. The table gets their main effects and "
        "interactions. Every combination of factors needs exactly one arm.",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = key([0], "Seeds of every arm's models.", min_length=1)
    interval_over: Literal["facts", "seeds"] = key(
        "facts",
        "`facts`: intervals over subjects, for each seed; `seeds`: also means over all seeds, with intervals over seeds.",
    )

    def levels(self, arm: str) -> dict[str, bool]:
        """Whether each factor is high in an arm."""
        return {factor: arm in high_arms for factor, high_arms in self.factors.items()}


def problems(config: Config) -> Iterable[str]:
    """Problems of the experiments that involve other sections."""
    for name in config.run.experiments:
        yield from missing("run.experiments", name, config.experiments, "experiments")
    for name in [name for name in config.run.experiments if name in config.experiments]:
        experiment, where = config.experiments[name], f"experiments.{name}"
        yield from missing(f"{where}.control", experiment.control, experiment.arms, f"{where}.arms")
        if experiment.control in experiment.arms and len(experiment.arms) < 2:
            yield f"{where}.arms has only the control; add an arm to compare with it"
        for arm, models in experiment.arms.items():
            for model in models:
                yield from missing(f"{where}.arms.{arm}", model, config.models, "models")
            if not models:
                yield f"{where}.arms.{arm} is empty; name its models"
        yield from _factor_problems(where, experiment)
        if len(set(experiment.seeds)) < len(experiment.seeds):
            yield f"{where}.seeds has duplicates"
        if experiment.interval_over == "seeds" and len(experiment.seeds) < 2:
            yield f"{where}.interval_over is seeds, but there is one seed; give at least two, or set it to facts"


def _factor_problems(where: str, experiment: Experiment) -> list[str]:
    """Combinations of factors that no arm has, or several arms have."""
    unknown = [
        problem
        for factor, arms in experiment.factors.items()
        for arm in arms
        for problem in missing(f"{where}.factors.{factor}", arm, experiment.arms, f"{where}.arms")
    ]
    if unknown or not experiment.factors:
        return unknown
    problems = []
    for combination in product((False, True), repeat=len(experiment.factors)):
        levels = dict(zip(experiment.factors, combination, strict=True))
        arms = [arm for arm in experiment.arms if experiment.levels(arm) == levels]
        if len(arms) != 1:
            description = ", ".join(f"{factor} {'high' if level else 'low'}" for factor, level in levels.items())
            problems.append(f"{where}.factors needs one arm with {description}, but has {' and '.join(arms) or 'none'}")
    return problems
