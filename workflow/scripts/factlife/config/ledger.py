"""The ledger: questions across stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from factlife.config.base import Count, Name, Section, key


class Question(Section):
    """Does a column of the ledger tell another?"""

    predictor: str = key(..., "Column that may tell, such as `exposures`.")
    outcome: str = key(..., "Column that it may tell, such as `step_learned`.")
    controls: list[str] = key(["relation"], "Columns whose influence on both is taken out first.")
    across_models: bool = key(False, "Whether facts of all models are compared, where the predictor differs by model.")


class Ledger(Section):
    """One row per fact, model and seed, over all stages."""

    questions: dict[Name, Question] = key({}, "Questions across stages, by name.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")


def problems(config: Any) -> Iterable[str]:
    """What is wrong with the questions, though each key is right."""
    for name, question in config.ledger.questions.items():
        if question.predictor == question.outcome or {question.predictor, question.outcome} & set(question.controls):
            yield f"ledger.questions.{name}: predictor, outcome and controls must be different columns"
