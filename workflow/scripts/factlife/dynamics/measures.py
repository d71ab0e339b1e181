"""What each comparison measures in the history of one arm.

A history holds the probes of an arm's models at all their checkpoints: the columns of the recall tables, then ``stage``
(0 for the first model), ``subject``, and ``split``, ``late`` and ``level`` of the subject (``depth 1``, or ``alias``). Steps go on from model to model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from factlife.dynamics.shapes import power_law, steps_to


@dataclass(frozen=True)
class Measure:
    """Numbers that follow from means over the items of subjects.

    Attributes:
        values: (items, columns), NaN where an item has none.
        subjects: (items,), whose item it is.
        rows: ``metric, group, step`` of each number; ``group`` and ``step`` may be empty.
        numbers: means (..., columns) to numbers (..., rows); the means themselves by default.
    """

    values: np.ndarray
    subjects: np.ndarray
    rows: list[tuple[str, str, int | None]]
    numbers: Callable[[np.ndarray], np.ndarray] = np.asarray


def learning(history: pd.DataFrame) -> Iterator[Measure]:
    """How many steps it takes to recall half and nearly all of the facts."""
    steps, values, subjects = curves(history[history["kind"] == "forward"], "exact_match")
    yield Measure(values, subjects, [("exact_match", "", step) for step in steps])
    yield Measure(
        values,
        subjects,
        [("steps_to_50", "", None), ("steps_to_95", "", None)],
        lambda means: np.stack([steps_to(steps, means, level) for level in (0.5, 0.95)], -1),
    )
    yield at_end(history, "forward", "exact_match")


def extraction(history: pd.DataFrame) -> Iterator[Measure]:
    """Answers about people whose questions were trained (asked) and about people whose questions were not."""
    taught = history[~history["late"]]
    for split in ("asked", "unasked"):
        some = taught[taught["split"] == split]
        steps, values, subjects = curves(some[some["kind"] == "question"], "exact_match")
        yield Measure(values, subjects, [("question_exact_match", split, step) for step in steps])
        yield at_end(some, "question", "exact_match", "question_exact_match", split)
        yield at_end(some, "forward", "exact_match", "statement_exact_match", split)


def forgetting(history: pd.DataFrame) -> Iterator[Measure]:
    """Recall of people taught before and of people taught now, along continued training.

    ``kept`` is recall of the former at the end over that at the start; ``forgetting_exponent`` the power of the step
    with which it fades.
    """
    stated = history[history["kind"] == "forward"]
    for group, late in (("early", False), ("late", True)):
        steps, values, subjects = curves(stated[stated["late"] == late], "exact_match")
        yield Measure(values, subjects, [("exact_match", group, step) for step in steps])
        yield at_end(stated[stated["late"] == late], "forward", "exact_match", group=group)
        if group == "early":
            yield Measure(
                values,
                subjects,
                [("kept", group, None), ("forgetting_exponent", group, None)],
                lambda means, steps=steps: np.stack(
                    [_ratio(means[..., -1], means[..., 0]), power_law(steps, means)], -1
                ),
            )


def curriculum(history: pd.DataFrame) -> Iterator[Measure]:
    """What functions of each depth return, where documents say so (stated) and where they do not (composed).

    ``confused`` is the share of probes for which another candidate is the most probable next token.
    """
    returns = history[history["relation"] == "returns"]
    values_known = set(returns["target"])
    wrong = (returns["first_token"] != returns["target"]) & returns["first_token"].isin(values_known)
    returns = returns.assign(confused=wrong.astype(float))
    asked = {"accuracy": "candidate_correct", "confidence": "confidence", "entropy": "candidate_entropy", "confused": "confused"}  # fmt: skip
    for kind, said in (("forward", "stated"), ("multi_hop", "composed")):
        for level, some in returns[returns["kind"] == kind].groupby("level"):
            group = f"{level}, {said}"
            for metric, column in asked.items():
                steps, values, subjects = curves(some, column)
                yield Measure(values, subjects, [(metric, group, step) for step in steps])
                yield at_end(some, kind, column, metric, group)


def curves(probes: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (points,), values of each probe at each (probes, points), and each probe's subject (probes,).

    Probes are in the order of their subjects, so that arms that share subjects are resampled alike.
    """
    wide = probes.assign(value=probes[column].astype(float)).pivot(
        index=["subject", "probe_id"], columns="step", values="value"
    )
    return wide.columns.to_numpy(), wide.to_numpy(), wide.index.get_level_values("subject").to_numpy()


def at_end(history: pd.DataFrame, kind: str, column: str, metric: str = "", group: str = "") -> Measure:
    """The mean of a column over the probes of one kind at the last step, as ``final_…``."""
    probes = history[history["kind"] == kind]
    _, values, subjects = curves(probes[probes["step"] == probes["step"].max()], column)
    return Measure(values, subjects, [(f"final_{metric or column}", group, None)])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)
