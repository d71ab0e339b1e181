"""Summary of all probes at all checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from factlife import stats

KEYS = ["model", "seed", "step", "exposures", "relation", "probe_kind"]
METRICS = {
    "first_token_accuracy": "first_token_correct",
    "exact_match": "exact_match",
    "generation_match": "generation_match",
    "loss_nats": "loss_nats",
    "no_knowledge_nats": "no_knowledge_nats",
    "rank": "rank",
    "candidate_probability": "candidate_probability",
    "candidate_accuracy": "candidate_correct",
    "candidate_entropy": "candidate_entropy",
    "confidence": "confidence",
    "chance": "chance",
    "representable": "representable",
}


def summarise_recall(recall: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Means with intervals over subjects at every step: pooled, by relation, and by exposures.

    Args:
        recall: the scores of models at all their checkpoints.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``model, seed, step, exposures, relation, probe_kind``. ``exposures`` is ``all``, or the mean
        exposures so far of a group of equally frequent subjects; groups with equal means are pooled. ``bits_stored``
        is the sum over facts of max(0, H - loss), where H is the entropy of the relation's values and the loss is the
        mean over the fact's forward probes (Allen-Zhu and Li 2024, part 3.3); it is computed for forward probes only.
    """
    return pd.concat(_groups(recall, resamples), ignore_index=True)


def _groups(recall: pd.DataFrame, resamples: int) -> Iterator[pd.DataFrame]:
    recall = recall.assign(subject=recall["fact_id"].str.split(".").str[0])
    for (model, seed, kind), rows in recall.groupby(["model", "seed", "kind"], sort=False):
        keys = {"model": model, "seed": seed, "probe_kind": kind, "exposures": "all", "relation": "all"}
        yield _rows(keys, rows, resamples)
        for relation, group in rows.groupby("relation", sort=False):
            yield _rows(keys | {"relation": relation}, group, resamples)
        for group in _levels(rows):
            yield _rows(keys | {"exposures": None}, group, resamples)


def _levels(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows of equally frequent subjects; groups with equal exposures, as before training, are pooled."""
    mean_exposures = rows.groupby(["step", "frequency"])["exposures"].mean().round(2).reset_index()
    groups = mean_exposures.groupby(["step", "exposures"])["frequency"].agg(tuple).reset_index()
    for frequencies, steps in groups.groupby("frequency")["step"]:
        yield rows[rows["frequency"].isin(frequencies) & rows["step"].isin(steps)]


def _rows(keys: dict, rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Summary rows of all steps at once: probes, and so resamples, are the same at each step."""
    steps = {step: group.sort_values("probe_id") for step, group in rows.groupby("step")}
    subjects = next(iter(steps.values()))["subject"].to_numpy()
    values = np.stack([group[list(METRICS.values())].astype(float).to_numpy() for group in steps.values()], 1)
    parts = [_tidy(keys, steps, list(METRICS), stats.cluster_bootstrap(_flat(values), subjects, resamples=resamples))]
    if keys["probe_kind"] == "forward":
        facts = [group.groupby("fact_id").agg(**_FACT) for group in steps.values()]
        bits = np.stack([(fact["entropy"] - fact["loss"].astype(float)).clip(lower=0) / np.log(2) for fact in facts], 1)
        interval = stats.cluster_bootstrap(bits, facts[0]["subject"].to_numpy(), resamples=resamples)
        for metric, scale in (
            ("bits_stored", interval.n),
            ("bits_per_parameter", interval.n / rows["n_parameters"].iloc[0]),
        ):
            scaled = stats.Interval(interval.n, interval.estimate * scale, interval.low * scale, interval.high * scale)
            parts.append(_tidy(keys, steps, [metric], scaled))
    return pd.concat(parts)


_FACT = {"loss": ("loss_nats", "mean"), "entropy": ("no_knowledge_nats", "first"), "subject": ("subject", "first")}


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _tidy(keys: dict, steps: dict[int, pd.DataFrame], metrics: list[str], interval: stats.Interval) -> pd.DataFrame:
    parts = []
    for i, (step, group) in enumerate(steps.items()):
        columns = slice(i * len(metrics), (i + 1) * len(metrics))
        step_interval = stats.Interval(
            interval.n[columns], interval.estimate[columns], interval.low[columns], interval.high[columns]
        )
        mean_exposures = round(float(group["exposures"].mean()), 2)
        values = keys | {"step": step} | ({} if keys["exposures"] else {"exposures": mean_exposures})
        parts.append(
            stats.summary_rows({key: values[key] for key in KEYS}, metrics, step_interval).assign(
                mean_exposures=mean_exposures
            )
        )
    return pd.concat(parts)
