"""From every probe at every checkpoint to one tidy table."""

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
    "candidate_entropy": "candidate_entropy",
    "confidence": "confidence",
    "chance": "chance",
    "representable": "representable",
}


def summarise(recall: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Means with intervals over subjects, for every step, pooled and by relation and by exposures.

    Args:
        recall: the scores of models at all their checkpoints.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``model, seed, step, exposures, relation, probe_kind``. ``exposures`` is ``all``, or the mean
        exposures so far of a group of equally frequent subjects. ``bits_stored`` sums over facts max(0, H - loss),
        where H is the entropy of the relation's values and the loss is the mean over the fact's forward probes
        (Allen-Zhu and Li 2024, part 3.3); it is given for forward probes.
    """
    return pd.concat(_groups(recall, resamples), ignore_index=True)


def _groups(recall: pd.DataFrame, resamples: int) -> Iterator[pd.DataFrame]:
    recall = recall.assign(subject=recall["fact_id"].str.split(".").str[0])
    for (model, seed, step, kind), rows in recall.groupby(["model", "seed", "step", "kind"], sort=False):
        pooled = {"model": model, "seed": seed, "step": step, "exposures": "all", "relation": "all", "probe_kind": kind}
        yield _row(pooled, rows, resamples)
        for relation, group in rows.groupby("relation", sort=False):
            yield _row(pooled | {"relation": relation}, group, resamples)
        for _, group in rows.groupby("frequency", sort=True):
            yield _row(pooled | {"exposures": round(group["exposures"].mean(), 2)}, group, resamples)


def _row(keys: dict, rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    values = rows[list(METRICS.values())].astype(float).to_numpy()
    interval = stats.cluster_bootstrap(values, rows["subject"].to_numpy(), resamples=resamples)
    summary = stats.tidy(keys, list(METRICS), interval)
    if keys["probe_kind"] != "forward":
        return summary
    facts = rows.groupby("fact_id", sort=False).agg(
        loss=("loss_nats", "mean"), entropy=("no_knowledge_nats", "first"), subject=("subject", "first")
    )
    bits = (facts["entropy"] - facts["loss"].astype(float)).clip(lower=0) / np.log(2)
    mean = stats.cluster_bootstrap(bits.to_numpy()[:, None], facts["subject"].to_numpy(), resamples=resamples)
    for metric, scale in (("bits_stored", len(facts)), ("bits_per_parameter", len(facts) / rows["parameters"].iloc[0])):
        scaled = stats.Interval(mean.n, mean.estimate * scale, mean.low * scale, mean.high * scale)
        summary = pd.concat([summary, stats.tidy(keys, [metric], scaled)])
    return summary
