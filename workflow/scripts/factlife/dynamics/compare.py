"""From histories of arms to one tidy table, each number beside its difference from the control's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import prod

import numpy as np
import pandas as pd

from factlife import stats
from factlife.config.dynamics import Dynamics, Experiment
from factlife.dynamics import measures
from factlife.dynamics.measures import Measure
from factlife.world.functions import depth_label

KEYS = ["experiment", "arm", "seed", "control"]
NUMBERS = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over", "effect", "effect_low", "effect_high"]
MORE = ["group", "step", "factors"]
_AT = ["metric", "group", "step"]
_COMPARISONS = {
    "learning": measures.learning,
    "extraction": measures.extraction,
    "reversal": measures.reversal,
    "imbalance": measures.imbalance,
    "forgetting": measures.forgetting,
    "injection": measures.injection,
    "capacity": measures.capacity,
    "curriculum": measures.curriculum,
    "invention": measures.invention,
}


def compare(
    settings: Dynamics, made: list[str], recall: pd.DataFrame, entities: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """All experiments that are made.

    Args:
        settings: of the stage.
        made: names of experiments.
        recall: every probe at every checkpoint of all models of their arms, ``model, seed, step, probe_id, …``.
        entities: for each model, the table of its world's entities.

    Returns:
        One row per ``experiment, arm, seed`` and number (``metric, group, step``). Intervals are percentile bootstrap
        intervals over subjects, and ``effect`` is the difference from the control arm of the same seed, with an
        interval from the same resamples where both arms have the same subjects. Rows of arm ``all`` are effects of
        factors that arms cross, several of which interact (``order:names``). In rows with seed ``all`` they are means
        over seeds with Student's t intervals. Infinite steps were never reached.
    """
    tables = [_experiment(name, settings.experiments[name], recall, entities, settings.resamples) for name in made]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*KEYS, *NUMBERS, *MORE])
    return table[[*KEYS, *NUMBERS, *MORE]]


def history(models: list[str], seed: int, recall: pd.DataFrame, entities: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What models that were trained one after the other recall, as one history."""
    parts, reached = [], 0
    for stage, model in enumerate(models):
        part = recall[(recall["model"] == model) & (recall["seed"] == seed)]
        if stage:
            # Before its first step it is the model before it, which has been asked.
            part = part[part["step"] > 0]
        subject = part["fact_id"].str.split(".").str[0]
        known = entities[model].set_index("entity_id")
        parts.append(
            part.assign(
                stage=stage,
                step=part["step"] + reached,
                subject=subject,
                split=subject.map(known["split"]),
                new=subject.map(known["new"]).astype(bool) if "new" in known else False,
                level=subject.map(depth_label),
            )
        )
        reached += part["step"].max()
    return pd.concat(parts, ignore_index=True)


def _experiment(
    name: str,
    settings: Experiment,
    recall: pd.DataFrame,
    entities: Mapping[str, pd.DataFrame],
    resamples: int,
) -> pd.DataFrame:
    rows = []
    for seed in settings.seeds:
        drawn = {
            arm: _numbers(_COMPARISONS[settings.comparison](history(models, seed, recall, entities)), resamples)
            for arm, models in settings.arms.items()
        }
        control, control_draws = drawn[settings.control]
        for arm, (found, draws) in drawn.items():
            if arm != settings.control:
                with np.errstate(invalid="ignore"):
                    difference = draws - control_draws.reindex(columns=draws.columns)
                    found["effect"] = found["estimate"] - control["estimate"].reindex(found.index)
                found["effect_low"], found["effect_high"] = _ends(difference.to_numpy())
            rows.append(found.reset_index().assign(arm=arm, factors="", seed=seed, interval_over="facts"))
        rows += [effect.assign(seed=seed, interval_over="facts") for effect in _factorial(settings, drawn)]
    table = pd.concat(rows, ignore_index=True)
    if settings.interval_over == "seeds":
        table = pd.concat([table, _over_seeds(table)], ignore_index=True)
    return table.assign(experiment=name, control=settings.control).reindex(columns=[*KEYS, *NUMBERS, *MORE])


def _factorial(settings: Experiment, drawn: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    """Main effects and interactions of the factors that arms cross, on what is measured once in every arm.

    Σ over arms of ± its number, halved for every factor but one, where the sign is the product of −1 for each of the
    effect's factors that is low (Box, Hunter and Hunter 2005, chapter 5). So the effect of one factor is the mean where
    it is high less the mean where it is low, and that of two is half of what one adds to the effect of the other.
    """
    once = {arm: found.index[found.index.get_level_values("step").isna()] for arm, (found, _) in drawn.items()}
    for size in range(1, len(settings.factors) + 1):
        for factors in combinations(settings.factors, size):
            weights = {
                arm: prod(1 if settings.levels(arm)[factor] else -1 for factor in factors)
                / 2 ** (len(settings.factors) - 1)
                for arm in drawn
            }
            at = once[settings.control]
            with np.errstate(invalid="ignore"):
                estimate = sum(weight * drawn[arm][0]["estimate"].reindex(at) for arm, weight in weights.items())
                draws = sum(weight * drawn[arm][1].reindex(columns=at) for arm, weight in weights.items())
            low, high = _ends(draws.to_numpy())
            n = sum(drawn[arm][0]["n"].reindex(at) for arm in drawn)
            effect = pd.DataFrame({"n": n, "estimate": estimate, "ci_low": low, "ci_high": high})
            yield effect.reset_index().assign(arm="all", factors=":".join(factors))


def _numbers(found: Iterator[Measure], resamples: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates with intervals, by ``metric, group, step``, and the resampled numbers, a column for each."""
    tables, draws = [], []
    for measure in found:
        mean, means = stats.bootstrap_means(measure.values, measure.subjects, resamples=resamples)
        number, resampled = measure.numbers(mean), measure.numbers(means)
        at = pd.MultiIndex.from_tuples(measure.rows, names=_AT)
        low, high = _ends(resampled)
        items = int((~np.isnan(measure.values)).any(1).sum())
        tables.append(pd.DataFrame({"n": items, "estimate": number, "ci_low": low, "ci_high": high}, index=at))
        draws.append(pd.DataFrame(resampled, columns=at))
    return pd.concat(tables), pd.concat(draws, axis=1)


def _ends(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of each column; of values that occur, since there may be infinite ones."""
    at = [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]
    low, high = np.full((2, draws.shape[1]), np.nan)
    if (known := ~np.isnan(draws).all(0)).any():
        low[known], high[known] = np.nanquantile(draws[:, known], at, axis=0, method="inverted_cdf")
    return low, high


def _over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    # Documents differ between seeds, and with them, by a step or two, when checkpoints are saved: the third is pooled
    # with the third.
    of = ["arm", "factors", "metric", "group"]
    table = table.assign(checkpoint=table.groupby(["seed", *of], dropna=False)["step"].rank(method="dense"))
    by_arm = table.groupby([*of, "checkpoint"], dropna=False, sort=False)
    found = pd.DataFrame(
        {
            "step": by_arm["step"].mean().round(),
            "n": by_arm["estimate"].count(),
            "estimate": by_arm["estimate"].mean(),
            "effect": by_arm["effect"].mean() if "effect" in table else np.nan,
        }
    )
    for column, low, high in (("estimate", "ci_low", "ci_high"), ("effect", "effect_low", "effect_high")):
        found[low], found[high] = stats.seed_interval(
            by_arm[column].mean(), by_arm[column].std(), by_arm[column].count()
        )
    return found.reset_index().drop(columns="checkpoint").assign(seed="all", interval_over="seeds")
