"""What each comparison measures in the history of one arm.

A history holds the probes of an arm's models at all their checkpoints: the columns of the recall tables, then ``stage``
(0 for the first model), ``subject``, and ``split``, ``new`` and ``level`` of the subject (``depth 1``, or ``alias``). Steps go on from model to model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from factlife.dynamics.shapes import plateau, power_law, steps_to


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


def learning(history: pd.DataFrame, group: str = "") -> Iterator[Measure]:
    """How many steps it takes to recall half and nearly all of the facts."""
    steps, values, subjects = curves(history[history["kind"] == "forward"], "exact_match")
    yield Measure(values, subjects, [("exact_match", group, step) for step in steps])
    yield Measure(
        values,
        subjects,
        [("steps_to_50", group, None), ("steps_to_95", group, None)],
        lambda means: np.stack([steps_to(steps, means, level) for level in (0.5, 0.95)], -1),
    )
    yield at_end(history, "forward", "exact_match", group=group)


def extraction(history: pd.DataFrame) -> Iterator[Measure]:
    """Answers about people whose questions were trained and about people whose questions were held out."""
    taught = history[~history["new"]]
    for split in ("qa_train", "qa_heldout"):
        some = taught[taught["split"] == split]
        steps, values, subjects = curves(some[some["kind"] == "question"], "exact_match")
        yield Measure(values, subjects, [("question_exact_match", split, step) for step in steps])
        yield at_end(some, "question", "exact_match", "question_exact_match", split)
        yield at_end(some, "forward", "exact_match", "statement_exact_match", split)


def reversal(history: pd.DataFrame) -> Iterator[Measure]:
    """The true value first among candidates when asked from the name, and the true name when asked from the value.

    The latter also for people of either split: where only those of one are ever reversed, the form alone is not new.
    """
    for kind, split in (("forward", None), ("reverse", None), ("reverse", "qa_train"), ("reverse", "qa_heldout")):
        some = history[(history["kind"] == kind) & (history["split"].eq(split) if split else True)]
        group = f"{kind}, {split}" if split else kind
        steps, values, subjects = curves(some, "candidate_correct")
        yield Measure(values, subjects, [("accuracy", group, step) for step in steps])
        yield at_end(some, kind, "candidate_correct", "accuracy", group)
        yield at_end(some, kind, "exact_match", "exact_match", group)


def imbalance(history: pd.DataFrame) -> Iterator[Measure]:
    """How long the loss stays at that of who knows no fact, and how soon facts are recalled, by tenths of frequency.

    Who knows no fact knows how often documents state each value: the loss of value v is −ln p(v). Losses are held against
    that as training sees them, each person as often as documents state them, and with all people alike.
    """
    stated = history[history["kind"] == "forward"]
    facts = stated.drop_duplicates("fact_id")
    times = facts.groupby(["relation", "target"])["frequency"].sum()
    ignorant = -np.log(times / times.groupby("relation").transform("sum")).rename("ignorant")
    stated = stated.join(ignorant, on=["relation", "target"])
    for group, weight in (("as stated", stated["frequency"]), ("people alike", 1.0)):
        steps, losses, subjects = curves(stated.assign(weighed=stated["loss_nats"] * weight), "weighed")
        without = curves(stated.assign(weighed=stated["ignorant"] * weight), "weighed")[1][:, :1]
        values = np.hstack([losses, without])
        yield Measure(
            values,
            subjects,
            [("relative_loss", group, step) for step in steps],
            lambda means: means[..., :-1] / means[..., -1:],
        )
        yield Measure(
            values,
            subjects,
            [("plateau_steps", group, None), ("plateau_end", group, None)],
            lambda means, steps=steps: np.stack(plateau(steps, means[..., :-1], means[..., -1]), -1),
        )
    yield from learning(history)
    frequency = stated.groupby("subject")["frequency"].first()
    if frequency.nunique() > 1:
        tenths = np.ceil(frequency.rank(method="first", pct=True) * 10).astype(int)
        for tenth, some in stated.groupby(stated["subject"].map(tenths)):
            yield from learning(some, f"tenth {tenth:02d}")


def injection(history: pd.DataFrame) -> Iterator[Measure]:
    """How much more probable late people's values become while they are injected, and how much of that is kept after.

    ``effectivity`` is the rise of their log probability over the first stage, in nats; ``retained`` the share of it
    that is left at a step after that stage, counted from its end; both after Chang et al. 2024, whose maximum shortly
    after an injection is here the end of the stage.
    """
    late = history[(history["kind"] == "forward") & history["new"]]
    steps, losses, subjects = curves(late, "loss_nats")
    injected = late.loc[late["stage"] == 0, "step"].max()
    last, after = int(np.searchsorted(steps, injected)), steps[steps > injected]

    def retained(means: np.ndarray) -> np.ndarray:
        return _ratio(means[..., :1] - means[..., last + 1 :], means[..., :1] - means[..., last : last + 1])

    yield Measure(
        losses, subjects, [("effectivity", "", None)], lambda means: (means[..., 0] - means[..., last])[..., None]
    )
    yield Measure(losses, subjects, [("retained", "", step) for step in after], retained)
    yield Measure(
        losses,
        subjects,
        [("final_retained", "", None), ("fading_exponent", "", None)],
        lambda means: np.stack([retained(means)[..., -1], power_law(after - injected, retained(means))[1]], -1),
    )


def capacity(history: pd.DataFrame) -> Iterator[Measure]:
    """Bits stored about facts, in all and for each parameter: Σ max(0, H − loss) / ln 2 (Allen-Zhu and Li 2024, part 3.3)."""
    stated = history[history["kind"] == "forward"]
    facts = stated.groupby(["subject", "fact_id", "step"], as_index=False).agg(
        {"loss_nats": "mean", "no_knowledge_nats": "first", "parameters": "first"}
    )
    facts["bits"] = (facts["no_knowledge_nats"] - facts["loss_nats"].astype(float)).clip(lower=0) / np.log(2)
    facts["known"] = facts["bits"] / (facts["no_knowledge_nats"] / np.log(2))
    steps, bits, subjects = curves(facts.rename(columns={"fact_id": "probe_id"}), "bits")
    size = facts["parameters"].iloc[-1]
    yield Measure(
        bits, subjects, [("bits_per_parameter", "", step) for step in steps], lambda means: means * len(bits) / size
    )
    yield Measure(
        bits[:, -1:],
        subjects,
        [("final_bits_stored", "", None), ("final_bits_per_parameter", "", None)],
        lambda means: np.concatenate([means * len(bits), means * len(bits) / size], -1),
    )
    steps, known, subjects = curves(facts.rename(columns={"fact_id": "probe_id"}), "known")
    yield Measure(known[:, -1:], subjects, [("final_share_of_bits", "", None)])


def invention(history: pd.DataFrame) -> Iterator[Measure]:
    """How sure a model is of the values of people it was taught and of people who occur in no document.

    ``confidence_rise`` is from the first checkpoint to the last, ``overconfidence`` confidence less accuracy at the end.
    """
    for group, kind in (("seen", "forward"), ("unseen", "unseen")):
        some = history[history["kind"] == kind]
        steps, values, subjects = curves(some, "confidence")
        yield Measure(values, subjects, [("confidence", group, step) for step in steps])
        yield Measure(
            values[:, [0, -1]],
            subjects,
            [("final_confidence", group, None), ("confidence_rise", group, None)],
            lambda means: np.stack([means[..., 1], means[..., 1] - means[..., 0]], -1),
        )
        right = curves(some, "candidate_correct")[1]
        yield Measure(values[:, -1:] - right[:, -1:], subjects, [("overconfidence", group, None)])


def forgetting(history: pd.DataFrame) -> Iterator[Measure]:
    """Recall of people taught before and of people taught now, along continued training.

    ``kept`` is recall of the former at the end over that at the start; ``forgetting_exponent`` the power of the step
    with which it fades, and ``power_law`` what the power law that fits it says of each step. Where less than a tenth
    was known at the start there is nothing to keep, and these are null.
    """
    stated = history[history["kind"] == "forward"]
    for group, new in (("old", False), ("new", True)):
        steps, values, subjects = curves(stated[stated["new"] == new], "exact_match")
        yield Measure(values, subjects, [("exact_match", group, step) for step in steps])
        yield at_end(stated[stated["new"] == new], "forward", "exact_match", group=group)
        if group == "old":
            later = steps[steps > 0]
            yield Measure(
                values,
                subjects,
                [("power_law", group, step) for step in later],
                lambda means, steps=steps, later=later: _power(later, *power_law(steps, _once_known(means))),
            )
            yield Measure(
                values,
                subjects,
                [("kept", group, None), ("forgetting_exponent", group, None)],
                lambda means, steps=steps: _faded(steps, _once_known(means)),
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


def _once_known(curves: np.ndarray) -> np.ndarray:
    return np.where(curves[..., :1] >= 0.1, curves, np.nan)


def _faded(steps: np.ndarray, curves: np.ndarray) -> np.ndarray:
    return np.stack([_ratio(curves[..., -1], curves[..., 0]), power_law(steps, curves)[1]], -1)


def _power(steps: np.ndarray, factor: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    return factor[..., None] * steps ** exponent[..., None]
