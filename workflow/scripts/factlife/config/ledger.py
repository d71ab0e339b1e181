"""The ledger: questions across stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from factlife.config.base import Name, Section, key


class Question(Section):
    """Does one column of the ledger predict another?"""

    predictor: str = key(..., "Predictor, a column of the ledger such as `exposures`.")
    outcome: str = key(..., "Outcome, a column of the ledger such as `step_learned`.")
    controls: list[str] = key(["relation"], "Columns to control for.")
    across_models: bool = key(False, "Whether to compare all models, for a predictor that differs by model.")


class Ledger(Section):
    """One row per fact, model and seed, with the results of all stages."""

    moved: ClassVar[dict[str, str]] = {"resamples": "run.resamples"}

    questions: dict[Name, Question] = key({}, "Questions across stages, by name.")


def problems(config: Any) -> Iterable[str]:
    """Messages about questions whose columns are not different."""
    for name, question in config.ledger.questions.items():
        if question.predictor == question.outcome or {question.predictor, question.outcome} & set(question.controls):
            yield f"ledger.questions.{name}: predictor, outcome and controls must be different columns"
