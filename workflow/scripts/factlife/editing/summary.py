"""Summaries of probes, metrics and survival as tidy tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from factlife import stats

KEYS = ["model", "seed", "editor", "schedule", "n_edits", "phase", "criterion"]
CRITERIA = ["probability", "argmax", "token_accuracy", "generation"]
# The metrics of the score, CounterFact's harmonic mean.
_SCORE_METRICS = ["efficacy", "paraphrase", "neighbourhood"]


def summarise_probes(edits: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Means with intervals over subjects, for each model, editor, phase and criterion.

    Args:
        edits: results per probe of editors, with columns ``model, seed, editor``.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``KEYS``. The metrics are those of the probes; ``recall`` (facts of people without an edit),
        ``same_subject`` (unedited facts of people with an edit), ``retained_recall`` and ``retained_same_subject`` (the same
        over facts that the original model recalled), ``unchanged_…`` (the most probable next token is that of the original
        model; criterion ``argmax``), and ``score``, the harmonic mean of efficacy, paraphrase and neighbourhood. ``n`` counts
        probes; intervals are over edited subjects, or over the subjects of recall. ``edits_per_key_dim`` is the number of
        edits divided by the key dimension; a layer cannot hold more than one edit per key dimension.
    """
    keys = [key for key in KEYS if key != "criterion"]
    parts = [
        _summarise_group(dict(zip(keys, values, strict=True)), rows, resamples)
        for values, rows in _with_known_and_subject(edits).groupby(keys, sort=False)
    ]
    table = pd.concat(parts, ignore_index=True)
    key_dims = edits.groupby("model")["d_key"].first()
    return table.assign(edits_per_key_dim=table["n_edits"] / table["model"].map(key_dims))


def _with_known_and_subject(edits: pd.DataFrame) -> pd.DataFrame:
    """The results with the columns ``known``, whether the original model was correct, and ``subject``, the cluster."""
    run = ["model", "seed", "editor"]
    is_known = edits[edits["phase"] == "pre"].set_index([*run, "probe_id"])["argmax"].rename("known")
    table = edits.join(is_known, on=[*run, "probe_id"])
    fact_subject, edit_subject = (table[column].str.split(".").str[0] for column in ("fact_id", "edit_id"))
    return table.assign(subject=edit_subject.where(table["edit_id"] != "", fact_subject))


def _summarise_group(keys: dict, rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    parts = []
    retained = rows[rows["metric"].isin(["recall", "same_subject"]) & rows["known"].fillna(False).astype(bool)]
    rows = pd.concat([rows, retained.assign(metric="retained_" + retained["metric"])])
    for metric, group in rows.groupby("metric", sort=False):
        interval = stats.cluster_bootstrap(
            group[CRITERIA].astype("Float64").to_numpy(float, na_value=np.nan),
            group["subject"].to_numpy(),
            resamples=resamples,
        )
        table = stats.summary_rows(keys, [metric] * len(CRITERIA), interval)
        criteria = [criterion for criterion, n in zip(CRITERIA, interval.n, strict=True) if n]
        table.insert(len(keys), "criterion", criteria)
        parts.append(table)
    preserved = rows[rows["metric"].isin(["neighbourhood", "recall", "same_subject"])]
    for metric, group in preserved.groupby("metric", sort=False):
        values = group[["unchanged"]].astype("Float64").to_numpy(float, na_value=np.nan)
        interval = stats.cluster_bootstrap(values, group["subject"].to_numpy(), resamples=resamples)
        table = stats.summary_rows(keys, [f"unchanged_{metric}"], interval)
        table.insert(len(keys), "criterion", "argmax")
        parts.append(table)
    if set(_SCORE_METRICS) <= set(rows["metric"]):
        parts.append(_score(keys, rows, resamples))
    return pd.concat(parts)


def _score(keys: dict, rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """The harmonic mean of three means; its interval resamples subjects jointly for all three."""
    rng, subjects = np.random.default_rng(0), rows[rows["edit_id"] != ""]["subject"].unique()
    scores = []
    for criterion in CRITERIA:
        sums = [
            rows[rows["metric"] == metric]
            .groupby("subject")[criterion]
            .agg(["sum", "count"])
            .reindex(subjects, fill_value=0)
            for metric in _SCORE_METRICS
        ]
        draws = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=resamples)
        ones = np.ones((1, len(subjects)))
        with np.errstate(invalid="ignore", divide="ignore"):
            means, resampled_means = (
                np.stack(
                    [
                        (weights @ metric_sums["sum"].to_numpy(float))
                        / (weights @ metric_sums["count"].to_numpy(float))
                        for metric_sums in sums
                    ]
                )
                for weights in (ones, draws)
            )
            estimate, resampled = (3 / (1 / values).sum(0) for values in (means, resampled_means))
        low, high = np.nanquantile(resampled, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2])
        scores.append(keys | {
            "criterion": criterion, "metric": "score", "n": int(sums[0]["count"].sum()), "estimate": estimate[0],
            "ci_low": low, "ci_high": high, "interval_over": "facts",
        })  # fmt: skip
    return pd.DataFrame(scores)


def summarise_metrics(metrics: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Metrics besides the probes, as rows of the same table.

    Args:
        metrics: of editors, with columns ``model, seed, editor``.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``KEYS``: ``fluency`` (bits) and ``consistency`` (criterion ``generation``) with intervals over edits;
        ``perplexity`` over texts; ``task_…``, the accuracy on a task, over questions; ``weight_norm`` and ``weight_change``,
        means over edited weights, without interval. ``criterion`` is empty except for generated text.
    """
    keys, parts = [key for key in KEYS if key != "criterion"], []
    for key_values, rows in metrics.groupby([*keys, "metric"], sort=False):
        metric, values = key_values[-1], rows[["value"]].to_numpy(float)
        head, options = dict(zip(keys, key_values, strict=False)), {"resamples": resamples}
        if metric == "nll":
            ratio = stats.cluster_bootstrap_ratio(
                values, rows[["weight"]].to_numpy(float), rows["item"].to_numpy(), **options
            )
            interval = stats.Interval(ratio.n, *(np.exp(bound) for bound in (ratio.estimate, ratio.low, ratio.high)))
        else:
            interval = stats.cluster_bootstrap(values, rows["item"].str.split(".").str[0].to_numpy(), **options)
        table = stats.summary_rows(head, ["perplexity" if metric == "nll" else metric], interval)
        if metric.startswith("weight_"):
            table[["ci_low", "ci_high"]], table["interval_over"] = np.nan, ""
        table.insert(len(keys), "criterion", "generation" if metric in ("fluency", "consistency") else "")
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


SURVIVAL_KEYS = [
    "model", "seed", "editor", "finetuning", "data", "trained_layers", "step", "group", "relearning_step",
]  # fmt: skip


def summarise_survival(survival: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Edits and other facts after fine-tuning, with intervals over subjects.

    Args:
        survival: results per fact, with columns ``model, seed, editor``.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``SURVIVAL_KEYS``: ``correct``; ``retention``, the fraction still correct of those correct at step 0;
        ``flip_rate``, 1 - retention; ``gain_rate``, the fraction correct of those wrong at step 0; ``reverted``, for edits,
        the old value is the argmax; ``update_cosine``, for edits, see ``survival.update_cosine``. The relearning groups start
        from step 0 of ``relearning_step``.
    """
    # The relearning groups start before relearning, all others before fine-tuning.
    facts = [*(key for key in SURVIVAL_KEYS if key not in ("step", "relearning_step")), "fact_id"]
    first = survival.sort_values(["step", "relearning_step"], kind="stable").drop_duplicates(facts)
    initial = first.set_index(facts)["correct"].rename("initially_correct")
    table = survival.join(initial, on=facts)
    correct, initially_correct = table["correct"].astype(float), table["initially_correct"].astype(float)
    columns = pd.DataFrame(
        {
            "correct": correct,
            "retention": correct.where(initially_correct == 1),
            "flip_rate": (1 - correct).where(initially_correct == 1),
            "gain_rate": correct.where(initially_correct == 0),
            "reverted": table["reverted"].astype("Float64").to_numpy(float, na_value=np.nan),
        }
    )
    subjects, parts = table["fact_id"].str.split(".").str[0], []
    for key_values, rows in table.groupby(SURVIVAL_KEYS, sort=False):
        interval = stats.cluster_bootstrap(
            columns.loc[rows.index].to_numpy(), subjects[rows.index].to_numpy(), resamples=resamples
        )
        parts.append(stats.summary_rows(dict(zip(SURVIVAL_KEYS, key_values, strict=True)), list(columns), interval))
    cosines = survival.dropna(subset="update_cosine").drop_duplicates(SURVIVAL_KEYS)
    values = {"metric": "update_cosine", "n": 1, "estimate": cosines["update_cosine"], "interval_over": ""}
    cosine_rows = cosines[SURVIVAL_KEYS].assign(**values, ci_low=np.nan, ci_high=np.nan)
    parts.append(cosine_rows[[*SURVIVAL_KEYS, *_TIDY_COLUMNS]])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


_TIDY_COLUMNS = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
