"""Comparison of each experiment's arms with the control, as one tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import prod

import numpy as np
import pandas as pd

from factlife import stats
from factlife.config.dynamics import Experiment
from factlife.dynamics import measures
from factlife.dynamics.measures import Measure
from factlife.world.functions import depth_label

KEYS = ["experiment", "arm", "seed", "control"]
ESTIMATES = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over", "effect", "effect_low", "effect_high"]
DETAILS = ["group", "step", "factors"]
_MEASURE_KEYS = ["metric", "group", "step"]
_COMPARISONS = {
    "learning": measures.learning,
    "extraction": measures.extraction,
    "reversal": measures.reversal,
    "imbalance": measures.imbalance,
    "forgetting": measures.forgetting,
    "injection": measures.injection,
    "capacity": measures.capacity,
    "curriculum": measures.curriculum,
    "hallucination": measures.hallucination,
}


def compare_experiments(
    experiments: Mapping[str, Experiment],
    recall: pd.DataFrame,
    entities: Mapping[str, pd.DataFrame],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Compare the arms of experiments with their controls.

    Args:
        experiments: settings of the experiments by name.
        recall: every probe at every checkpoint of all models of their arms, ``model, seed, step, probe_id, …``.
        entities: the entities of each model's world.
        resamples: bootstrap resamples.

    Returns:
        One row per ``experiment, arm, seed`` and estimate (``metric, group, step``). Intervals are percentile bootstrap
        intervals over subjects. ``effect`` is the difference from the control arm of the same seed, with an interval from
        the same resamples if both arms have the same subjects. Rows of arm ``all`` are main effects and interactions of
        factors (``permute:fullname``). Rows of seed ``all`` are means over seeds with Student's t intervals. An infinite
        number of steps means never.
    """
    tables = [
        _experiment_rows(name, experiment, recall, entities, resamples) for name, experiment in experiments.items()
    ]
    columns = [*KEYS, *ESTIMATES, *DETAILS]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    return table[columns]


def arm_history(
    models: list[str], seed: int, recall: pd.DataFrame, entities: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Recall of successively trained models as one history with continuous steps."""
    parts, previous_steps = [], 0
    for stage, model in enumerate(models):
        part = recall[(recall["model"] == model) & (recall["seed"] == seed)]
        if stage:
            # At step 0 it equals the previous model, which has its own rows.
            part = part[part["step"] > 0]
        subject = part["fact_id"].str.split(".").str[0]
        subjects = entities[model].set_index("entity_id")
        parts.append(
            part.assign(
                stage=stage,
                step=part["step"] + previous_steps,
                subject=subject,
                split=subject.map(subjects["split"]),
                new=subject.map(subjects["new"]).astype(bool) if "new" in subjects else False,
                level=subject.map(depth_label),
            )
        )
        previous_steps += part["step"].max()
    return pd.concat(parts, ignore_index=True)


def _experiment_rows(
    name: str,
    settings: Experiment,
    recall: pd.DataFrame,
    entities: Mapping[str, pd.DataFrame],
    resamples: int,
) -> pd.DataFrame:
    rows = []
    for seed in settings.seeds:
        estimates = {
            arm: _estimates(_COMPARISONS[settings.comparison](arm_history(models, seed, recall, entities)), resamples)
            for arm, models in settings.arms.items()
        }
        control, control_draws = estimates[settings.control]
        for arm, (table, draws) in estimates.items():
            if arm != settings.control:
                with np.errstate(invalid="ignore"):
                    difference = draws - control_draws.reindex(columns=draws.columns)
                    table["effect"] = table["estimate"] - control["estimate"].reindex(table.index)
                table["effect_low"], table["effect_high"] = _percentiles(difference.to_numpy())
            rows.append(table.reset_index().assign(arm=arm, factors="", seed=seed, interval_over="facts"))
        effects = _factor_effects(settings, estimates)
        rows += [effect.assign(seed=seed, interval_over="facts") for effect in effects]
    table = pd.concat(rows, ignore_index=True)
    if settings.interval_over == "seeds":
        table = pd.concat([table, _means_over_seeds(table)], ignore_index=True)
    return table.assign(experiment=name, control=settings.control).reindex(columns=[*KEYS, *ESTIMATES, *DETAILS])


def _factor_effects(
    settings: Experiment, estimates: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]
) -> Iterator[pd.DataFrame]:
    """Main effects and interactions of the factors, on metrics with one estimate per arm.

    The effect is Σ ± estimate over all arms, divided by 2^(number of factors − 1). The sign is the product of −1 for each
    factor of the effect that is low (Box, Hunter and Hunter 2005, chapter 5). The main effect of a factor is therefore the
    mean of the arms where it is high minus the mean of those where it is low, and the interaction of two factors is half
    the change that one makes to the effect of the other.
    """
    final_keys = {
        arm: table.index[table.index.get_level_values("step").isna()] for arm, (table, _) in estimates.items()
    }
    for size in range(1, len(settings.factors) + 1):
        for factors in combinations(settings.factors, size):
            weights = {
                arm: prod(1 if settings.levels(arm)[factor] else -1 for factor in factors)
                / 2 ** (len(settings.factors) - 1)
                for arm in estimates
            }
            keys = final_keys[settings.control]
            with np.errstate(invalid="ignore"):
                estimate = sum(weight * estimates[arm][0]["estimate"].reindex(keys) for arm, weight in weights.items())
                draws = sum(weight * estimates[arm][1].reindex(columns=keys) for arm, weight in weights.items())
            low, high = _percentiles(draws.to_numpy())
            n = sum(estimates[arm][0]["n"].reindex(keys) for arm in estimates)
            effect = pd.DataFrame({"n": n, "estimate": estimate, "ci_low": low, "ci_high": high})
            yield effect.reset_index().assign(arm="all", factors=":".join(factors))


def _estimates(arm_measures: Iterator[Measure], resamples: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates with intervals by ``metric, group, step``, and the resampled values, one column each."""
    tables, draws = [], []
    for measure in arm_measures:
        mean, resampled_means = stats.bootstrap_means(measure.values, measure.subjects, resamples=resamples)
        estimate, resampled = measure.statistic(mean), measure.statistic(resampled_means)
        keys = pd.MultiIndex.from_tuples(measure.keys, names=_MEASURE_KEYS)
        low, high = _percentiles(resampled)
        n_items = int((~np.isnan(measure.values)).any(1).sum())
        tables.append(pd.DataFrame({"n": n_items, "estimate": estimate, "ci_low": low, "ci_high": high}, index=keys))
        draws.append(pd.DataFrame(resampled, columns=keys))
    return pd.concat(tables), pd.concat(draws, axis=1)


def _percentiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval ends of each column, without interpolation, since some draws may be infinite."""
    quantiles = [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]
    low, high = np.full((2, draws.shape[1]), np.nan)
    if (has_draws := ~np.isnan(draws).all(0)).any():
        low[has_draws], high[has_draws] = np.nanquantile(draws[:, has_draws], quantiles, axis=0, method="inverted_cdf")
    return low, high


def _means_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    # Documents differ between seeds, so the steps of checkpoints may differ by one or two. Checkpoints are matched by rank.
    keys = ["arm", "factors", "metric", "group"]
    table = table.assign(checkpoint=table.groupby(["seed", *keys], dropna=False)["step"].rank(method="dense"))
    groups = table.groupby([*keys, "checkpoint"], dropna=False, sort=False)
    means = pd.DataFrame(
        {
            "step": groups["step"].mean().round(),
            "n": groups["estimate"].count(),
            "estimate": groups["estimate"].mean(),
            "effect": groups["effect"].mean() if "effect" in table else np.nan,
        }
    )
    for column, low, high in (("estimate", "ci_low", "ci_high"), ("effect", "effect_low", "effect_high")):
        means[low], means[high] = stats.seed_interval(
            groups[column].mean(), groups[column].std(), groups[column].count()
        )
    return means.reset_index().drop(columns="checkpoint").assign(seed="all", interval_over="seeds")
