"""The metrics of each comparison, from the history of one arm.

A history holds the probes of an arm's models at all their checkpoints: the columns of the recall tables, then ``stage``
(0 for the first model), ``subject``, and ``split``, ``new`` and ``level`` of the subject (``depth 1``, or ``alias``). Steps
continue from model to model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from factlife.dynamics.curves import plateau, power_law, steps_to_level


@dataclass(frozen=True)
class Measure:
    """Estimates that are functions of means over items, which are clustered by subject.

    Attributes:
        values: (items, columns), NaN where an item has no value.
        subjects: (items,), subject of each item.
        keys: ``metric, group, step`` of each estimate; ``group`` may be empty and ``step`` None.
        statistic: maps means (..., columns) to estimates (..., keys); by default the means themselves.
    """

    values: np.ndarray
    subjects: np.ndarray
    keys: list[tuple[str, str, int | None]]
    statistic: Callable[[np.ndarray], np.ndarray] = np.asarray


def learning(history: pd.DataFrame, group: str = "") -> Iterator[Measure]:
    """Recall at each step, and the steps to recall 50 % and 95 % of the facts."""
    steps, values, subjects = probe_curves(history[history["kind"] == "forward"], "exact_match")
    yield Measure(values, subjects, [("exact_match", group, step) for step in steps])
    yield Measure(
        values,
        subjects,
        [("steps_to_50", group, None), ("steps_to_95", group, None)],
        lambda means: np.stack([steps_to_level(steps, means, level) for level in (0.5, 0.95)], -1),
    )
    yield final_mean(history, "forward", "exact_match", group=group)


def extraction(history: pd.DataFrame) -> Iterator[Measure]:
    """Questions answered about people with and without questions in the training data."""
    history = history[~history["new"]]
    for split in ("qa_train", "qa_heldout"):
        probes = history[history["split"] == split]
        steps, values, subjects = probe_curves(probes[probes["kind"] == "question"], "exact_match")
        yield Measure(values, subjects, [("question_exact_match", split, step) for step in steps])
        yield final_mean(probes, "question", "exact_match", "question_exact_match", split)
        yield final_mean(probes, "forward", "exact_match", "statement_exact_match", split)


def reversal(history: pd.DataFrame) -> Iterator[Measure]:
    """Accuracy among candidates from name to value, and from value to name.

    The reverse direction is also split by people: if only those of one split have reversed training documents, the other
    split tests the direction without the novelty of the reversed form.
    """
    for kind, split in (("forward", None), ("reverse", None), ("reverse", "qa_train"), ("reverse", "qa_heldout")):
        probes = history[(history["kind"] == kind) & (history["split"].eq(split) if split else True)]
        group = f"{kind}, {split}" if split else kind
        steps, values, subjects = probe_curves(probes, "candidate_correct")
        yield Measure(values, subjects, [("accuracy", group, step) for step in steps])
        yield final_mean(probes, kind, "candidate_correct", "accuracy", group)
        yield final_mean(probes, kind, "exact_match", "exact_match", group)


def imbalance(history: pd.DataFrame) -> Iterator[Measure]:
    """Length of the plateau at the no-knowledge loss, and steps to recall facts by decile of frequency.

    A model that knows no fact knows how often documents state each value: its loss of value v is −ln p(v). The relative
    loss divides the loss by this no-knowledge loss, both weighted by the frequency of each person in the documents, as in
    training, or with equal weights.
    """
    forward = history[history["kind"] == "forward"]
    facts = forward.drop_duplicates("fact_id")
    value_counts = facts.groupby(["relation", "target"])["frequency"].sum()
    no_knowledge = -np.log(value_counts / value_counts.groupby("relation").transform("sum")).rename("no_knowledge")
    forward = forward.join(no_knowledge, on=["relation", "target"])
    for group, weight in (("frequency weights", forward["frequency"]), ("equal weights", 1.0)):
        steps, losses, subjects = probe_curves(forward.assign(weighted=forward["loss_nats"] * weight), "weighted")
        baseline = probe_curves(forward.assign(weighted=forward["no_knowledge"] * weight), "weighted")[1][:, :1]
        values = np.hstack([losses, baseline])
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
            partial(_plateaus, steps),
        )
    yield from learning(history)
    frequency = forward.groupby("subject")["frequency"].first()
    if frequency.nunique() > 1:
        deciles = np.ceil(frequency.rank(method="first", pct=True) * 10).astype(int)
        for decile, probes in forward.groupby(forward["subject"].map(deciles)):
            yield from learning(probes, f"decile {decile:02d}")


def injection(history: pd.DataFrame) -> Iterator[Measure]:
    """Effectivity of injecting facts about new people, and their retainability afterwards (Chang et al. 2024).

    ``effectivity`` is the rise of the values' log probability over the first stage, in nats. ``retainability`` is the
    fraction of this rise that remains at a step after that stage. Chang et al. measure from the maximum shortly after an
    injection; here it is the end of the first stage.
    """
    probes = history[(history["kind"] == "forward") & history["new"]]
    steps, losses, subjects = probe_curves(probes, "loss_nats")
    injection_end = probes.loc[probes["stage"] == 0, "step"].max()
    end, later_steps = int(np.searchsorted(steps, injection_end)), steps[steps > injection_end]

    def retainability(means: np.ndarray) -> np.ndarray:
        return _ratio(means[..., :1] - means[..., end + 1 :], means[..., :1] - means[..., end : end + 1])

    yield Measure(
        losses, subjects, [("effectivity", "", None)], lambda means: (means[..., 0] - means[..., end])[..., None]
    )
    yield Measure(losses, subjects, [("retainability", "", step) for step in later_steps], retainability)
    yield Measure(
        losses,
        subjects,
        [("final_retainability", "", None), ("forgetting_exponent", "", None)],
        lambda means: np.stack(
            [retainability(means)[..., -1], power_law(later_steps - injection_end, retainability(means))[1]], -1
        ),
    )


def capacity(history: pd.DataFrame) -> Iterator[Measure]:
    """Bits stored about facts, in total and per parameter: Σ max(0, H − loss) / ln 2 (Allen-Zhu and Li 2024, part 3.3)."""
    forward = history[history["kind"] == "forward"]
    facts = forward.groupby(["subject", "fact_id", "step"], as_index=False).agg(
        {"loss_nats": "mean", "no_knowledge_nats": "first", "n_parameters": "first"}
    )
    facts["bits"] = (facts["no_knowledge_nats"] - facts["loss_nats"].astype(float)).clip(lower=0) / np.log(2)
    facts["fraction"] = facts["bits"] / (facts["no_knowledge_nats"] / np.log(2))
    steps, bits, subjects = probe_curves(facts.rename(columns={"fact_id": "probe_id"}), "bits")
    n_parameters = facts["n_parameters"].iloc[-1]
    yield Measure(
        bits,
        subjects,
        [("bits_per_parameter", "", step) for step in steps],
        lambda means: means * len(bits) / n_parameters,
    )
    yield Measure(
        bits[:, -1:],
        subjects,
        [("final_bits_stored", "", None), ("final_bits_per_parameter", "", None)],
        lambda means: np.concatenate([means * len(bits), means * len(bits) / n_parameters], -1),
    )
    steps, fractions, subjects = probe_curves(facts.rename(columns={"fact_id": "probe_id"}), "fraction")
    yield Measure(fractions[:, -1:], subjects, [("final_bits_fraction", "", None)])


def hallucination(history: pd.DataFrame) -> Iterator[Measure]:
    """Confidence about people in the training data and about people in no document.

    ``confidence_rise`` is the change from the first checkpoint to the last, ``overconfidence`` the final confidence minus
    the accuracy.
    """
    for group, kind in (("seen", "forward"), ("unseen", "unseen")):
        probes = history[history["kind"] == kind]
        steps, values, subjects = probe_curves(probes, "confidence")
        yield Measure(values, subjects, [("confidence", group, step) for step in steps])
        yield Measure(
            values[:, [0, -1]],
            subjects,
            [("final_confidence", group, None), ("confidence_rise", group, None)],
            lambda means: np.stack([means[..., 1], means[..., 1] - means[..., 0]], -1),
        )
        is_correct = probe_curves(probes, "candidate_correct")[1]
        yield Measure(values[:, -1:] - is_correct[:, -1:], subjects, [("overconfidence", group, None)])


def forgetting(history: pd.DataFrame) -> Iterator[Measure]:
    """Recall of old people and of new people during continued training on the new ones.

    ``retention`` is the final recall of old people divided by the initial recall, ``forgetting_exponent`` the exponent of
    the power law that fits their recall, and ``power_law`` this fit at each step. All three are null if the initial recall
    is below .1.
    """
    forward = history[history["kind"] == "forward"]
    for group, is_new in (("old", False), ("new", True)):
        steps, values, subjects = probe_curves(forward[forward["new"] == is_new], "exact_match")
        yield Measure(values, subjects, [("exact_match", group, step) for step in steps])
        yield final_mean(forward[forward["new"] == is_new], "forward", "exact_match", group=group)
        if group == "old":
            later_steps = steps[steps > 0]
            yield Measure(
                values,
                subjects,
                [("power_law", group, step) for step in later_steps],
                partial(_fitted_power_law, steps, later_steps),
            )
            yield Measure(
                values,
                subjects,
                [("retention", group, None), ("forgetting_exponent", group, None)],
                partial(_retention_and_exponent, steps),
            )


def curriculum(history: pd.DataFrame) -> Iterator[Measure]:
    """Values of functions of each depth that documents state (stated), or that follow from others (composed).

    ``wrong_value_predicted`` is the fraction of probes for which another function's value is the most probable next token.
    """
    probes = history[history["relation"] == "returns"]
    is_value = probes["predicted_token"].isin(set(probes["target"]))
    wrong_value = (probes["predicted_token"] != probes["target"]) & is_value
    probes = probes.assign(wrong_value=wrong_value.astype(float))
    metrics = {
        "accuracy": "candidate_correct", "confidence": "confidence", "entropy": "candidate_entropy",
        "wrong_value_predicted": "wrong_value",
    }  # fmt: skip
    for kind, source in (("forward", "stated"), ("multi_hop", "composed")):
        for level, level_probes in probes[probes["kind"] == kind].groupby("level"):
            group = f"{level}, {source}"
            for metric, column in metrics.items():
                steps, values, subjects = probe_curves(level_probes, column)
                yield Measure(values, subjects, [(metric, group, step) for step in steps])
                yield final_mean(level_probes, kind, column, metric, group)


def probe_curves(probes: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (points,), values of each probe at each step (probes, points), and each probe's subject (probes,).

    Probes are sorted by subject, so that arms with the same subjects get the same resamples.
    """
    table = probes.assign(value=probes[column].astype(float)).pivot(
        index=["subject", "probe_id"], columns="step", values="value"
    )
    return table.columns.to_numpy(), table.to_numpy(), table.index.get_level_values("subject").to_numpy()


def final_mean(history: pd.DataFrame, kind: str, column: str, metric: str = "", group: str = "") -> Measure:
    """The mean of a column over the probes of one kind at the last step, as ``final_…``."""
    probes = history[history["kind"] == kind]
    _, values, subjects = probe_curves(probes[probes["step"] == probes["step"].max()], column)
    return Measure(values, subjects, [(f"final_{metric or column}", group, None)])


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _initially_known(curves: np.ndarray) -> np.ndarray:
    return np.where(curves[..., :1] >= 0.1, curves, np.nan)


def _retention_and_exponent(steps: np.ndarray, means: np.ndarray) -> np.ndarray:
    curves = _initially_known(means)
    return np.stack([_ratio(curves[..., -1], curves[..., 0]), power_law(steps, curves)[1]], -1)


def _plateaus(steps: np.ndarray, means: np.ndarray) -> np.ndarray:
    return np.stack(plateau(steps, means[..., :-1], means[..., -1]), -1)


def _fitted_power_law(steps: np.ndarray, later_steps: np.ndarray, means: np.ndarray) -> np.ndarray:
    return _power_curve(later_steps, *power_law(steps, _initially_known(means)))


def _power_curve(steps: np.ndarray, factor: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    return factor[..., None] * steps ** exponent[..., None]
