"""From every verdict on every probe to one tidy table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from factlife import stats

KEYS = ["model", "seed", "editor", "schedule", "n_edits", "phase", "criterion"]
CRITERIA = ["probability", "argmax", "token_accuracy", "generation"]
# What makes up the score: CounterFact's harmonic mean.
_SCORED = ["efficacy", "paraphrase", "neighbourhood"]


def summarise_probes(verdicts: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Means with intervals over subjects, for each model, editor, phase and judge.

    Args:
        verdicts: of editors, with columns ``model, seed, editor``.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``KEYS``. Metrics are those of the probes; ``recall`` (facts of people who have no edit),
        ``same_subject`` (unedited facts of those who have), ``retained_recall`` and ``retained_same_subject`` (the same over facts
        that the original model told), ``unchanged`` (neighbours' and unedited facts' most probable token is the original
        model's; criterion ``argmax``), and ``score``, the harmonic mean of efficacy, paraphrase and neighbourhood. ``n`` counts
        probes; intervals are over edited subjects, or over subjects that were asked about for recall. ``edits_per_key_dim`` is
        the number of edits over the entries of a key, more of which than one a layer cannot hold.
    """
    keys = [key for key in KEYS if key != "criterion"]
    groups = [
        _group(dict(zip(keys, found, strict=True)), rows, resamples)
        for found, rows in _with_known(verdicts).groupby(keys, sort=False)
    ]
    table = pd.concat(groups, ignore_index=True)
    widths = verdicts.groupby("model")["d_key"].first()
    return table.assign(edits_per_key_dim=table["n_edits"] / table["model"].map(widths))


def _with_known(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Recall told apart by whether the subject has an edit, with what the original model knew, and the clusters."""
    runs = ["model", "seed", "editor"]
    first = verdicts[verdicts["phase"] == "pre"].set_index([*runs, "probe_id"])["argmax"].rename("known")
    table = verdicts.join(first, on=[*runs, "probe_id"])
    about, edit = (table[column].str.split(".").str[0] for column in ("fact_id", "edit_id"))
    return table.assign(subject=edit.where(table["edit_id"] != "", about))


def _group(keys: dict, rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    parts = []
    kept = rows[rows["metric"].isin(["recall", "same_subject"]) & rows["known"].fillna(False).astype(bool)]
    rows = pd.concat([rows, kept.assign(metric="retained_" + kept["metric"])])
    for metric, group in rows.groupby("metric", sort=False):
        interval = stats.cluster_bootstrap(
            group[CRITERIA].astype("Float64").to_numpy(float, na_value=np.nan),
            group["subject"].to_numpy(),
            resamples=resamples,
        )
        table = stats.summary_rows(keys, [metric] * len(CRITERIA), interval)
        table.insert(len(keys), "criterion", [judge for judge, n in zip(CRITERIA, interval.n, strict=True) if n])
        parts.append(table)
    still = rows[rows["metric"].isin(["neighbourhood", "recall", "same_subject"])]
    for metric, group in still.groupby("metric", sort=False):
        values = group[["unchanged"]].astype("Float64").to_numpy(float, na_value=np.nan)
        interval = stats.cluster_bootstrap(values, group["subject"].to_numpy(), resamples=resamples)
        table = stats.summary_rows(keys, [f"unchanged_{metric}"], interval)
        table.insert(len(keys), "criterion", "argmax")
        parts.append(table)
    if set(_SCORED) <= set(rows["metric"]):
        parts.append(_score(keys, rows, resamples))
    return pd.concat(parts)


def _score(keys: dict, rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """The harmonic mean of means; its interval resamples subjects once for all three."""
    rng, subjects = np.random.default_rng(0), rows[rows["edit_id"] != ""]["subject"].unique()
    found = []
    for judge in CRITERIA:
        sums = [
            rows[rows["metric"] == metric]
            .groupby("subject")[judge]
            .agg(["sum", "count"])
            .reindex(subjects, fill_value=0)
            for metric in _SCORED
        ]
        draws = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=resamples)
        whole = np.ones((1, len(subjects)))
        with np.errstate(invalid="ignore", divide="ignore"):
            means, every = (
                np.stack([(d @ each["sum"].to_numpy(float)) / (d @ each["count"].to_numpy(float)) for each in sums])
                for d in (whole, draws)
            )
            estimate, resampled = (3 / (1 / one).sum(0) for one in (means, every))
        low, high = np.nanquantile(resampled, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2])
        found.append(keys | {
            "criterion": judge, "metric": "score", "n": int(sums[0]["count"].sum()), "estimate": estimate[0],
            "ci_low": low, "ci_high": high, "interval_over": "facts",
        })  # fmt: skip
    return pd.DataFrame(found)


def summarise_metrics(measures: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """What was measured beside the probes, as rows of the same table.

    Args:
        measures: of editors, with columns ``model, seed, editor``.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``KEYS``: ``fluency`` (bits) and ``consistency`` (criterion ``generation``) with intervals over edits;
        ``perplexity`` over texts; ``task_…``, the share of a task's questions that is answered rightly, over questions;
        ``weight_norm`` and ``weight_change``, means over changed weights, without interval. ``criterion`` is empty but for
        texts.
    """
    keys, parts = [key for key in KEYS if key != "criterion"], []
    for found, rows in measures.groupby([*keys, "metric"], sort=False):
        metric, values = found[-1], rows[["value"]].to_numpy(float)
        head, options = dict(zip(keys, found, strict=False)), {"resamples": resamples}
        if metric == "nll":
            ratio = stats.cluster_bootstrap_ratio(
                values, rows[["weight"]].to_numpy(float), rows["item"].to_numpy(), **options
            )
            interval = stats.Interval(ratio.n, *(np.exp(one) for one in (ratio.estimate, ratio.low, ratio.high)))
        else:
            interval = stats.cluster_bootstrap(values, rows["item"].str.split(".").str[0].to_numpy(), **options)
        table = stats.summary_rows(head, ["perplexity" if metric == "nll" else metric], interval)
        if metric.startswith("weight_"):
            table[["ci_low", "ci_high"]], table["interval_over"] = np.nan, ""
        table.insert(len(keys), "criterion", "generation" if metric in ("fluency", "consistency") else "")
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


SURVIVAL_KEYS = ["model", "seed", "editor", "finetuning", "data", "trained_layers", "step", "group", "relearning_step"]


def summarise_survival(followed: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """What is left of edits and of other facts after fine-tuning, with intervals over subjects.

    Args:
        followed: of ``survival``, with columns ``model, seed, editor``.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``SURVIVAL_KEYS``: ``correct``; ``retention``, the share that is right of those that were right at
        step 0; ``flip_rate``, 1 - retention; ``gain_rate``, the share that is right of those that were wrong at step 0;
        ``reverted``, of edits, that the old value is said; ``update_cosine``, of edits, ``survival.cosine``. Facts that are taught again count from step 0 of ``relearning_step``.
    """
    # What is taught again counts from before that, all else from before fine-tuning.
    facts = [*(key for key in SURVIVAL_KEYS if key not in ("step", "relearning_step")), "fact_id"]
    first = followed.sort_values(["step", "relearning_step"], kind="stable").drop_duplicates(facts)
    start = first.set_index(facts)["correct"].rename("began")
    table = followed.join(start, on=facts)
    now, began = table["correct"].astype(float), table["began"].astype(float)
    columns = pd.DataFrame(
        {
            "correct": now,
            "retention": now.where(began == 1),
            "flip_rate": (1 - now).where(began == 1),
            "gain_rate": now.where(began == 0),
            "reverted": table["reverted"].astype("Float64").to_numpy(float, na_value=np.nan),
        }
    )
    subjects, parts = table["fact_id"].str.split(".").str[0], []
    for found, rows in table.groupby(SURVIVAL_KEYS, sort=False):
        interval = stats.cluster_bootstrap(
            columns.loc[rows.index].to_numpy(), subjects[rows.index].to_numpy(), resamples=resamples
        )
        parts.append(stats.summary_rows(dict(zip(SURVIVAL_KEYS, found, strict=True)), list(columns), interval))
    moved = followed.dropna(subset="update_cosine").drop_duplicates(SURVIVAL_KEYS)
    alone = {"metric": "update_cosine", "n": 1, "estimate": moved["update_cosine"], "interval_over": ""}
    parts.append(moved[SURVIVAL_KEYS].assign(**alone, ci_low=np.nan, ci_high=np.nan)[[*SURVIVAL_KEYS, *_TIDY]])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
