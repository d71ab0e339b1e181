"""Comparison of arms with their controls: onsets, lead times, stages, settings, growth laws and thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats as distributions

from factlife import stats
from factlife.config.collapse import CollapseArm
from factlife.stats import LEVEL, holm

KEYS = ["model", "arm", "analysis", "indicator"]
_ARM_KEYS = KEYS[1:]
_MEASURED = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
# Simulations for the p-value of a change point.
_N_SIMULATIONS = 4000
# Metric and group that mark the end of each stage: the model forgets facts, writes broken sentences, answers no questions.
STAGES = {
    "knowledge": ("recall", "all"),
    "fluency": ("parsed_fraction", "synthetic"),
    "instruction_following": ("recall_question", "all"),
}
INDICATORS = {
    "recall": "all", "recall_tail": "tail", "recall_question": "all", "recall_paraphrase": "all", "loss_nats": "all",
    "confidence": "all", "confidently_wrong": "all", "calibration_error": "all", "perplexity": "all",
    "fact_precision": "all", "coverage": "all", "tail_coverage": "all", "divergence_hellinger": "all", "evenness": "all",
    "generative_perplexity": "synthetic", "parsed_fraction": "synthetic", "entropy": "synthetic",
    "words_per_text": "synthetic", "distinct_2": "synthetic", "unique_fraction": "synthetic", "self_bleu": "synthetic",
    "vendi": "synthetic", "gibberish_level": "synthetic",
}  # fmt: skip


def compare_with_controls(table: pd.DataFrame, arms: Mapping[str, Mapping[str, CollapseArm]]) -> pd.DataFrame:
    """Compare every arm with its control, which is an arm of the same model.

    Args:
        table: from ``summarise_generations``.
        arms: settings of each model's arms in the table.

    Returns:
        Rows keyed by ``model, arm, analysis, indicator``, then ``metric, n, estimate, ci_low, ci_high, interval_over``: means
        over seeds, with Student's t interval where there are several. Analyses: ``onset`` and ``lead_time`` of each
        indicator, the ``stage_end`` of each stage, the final ``recall_drop``, the ``recovery`` on real text, the
        ``growth_law`` of the error, the ``threshold`` of the synthetic fraction, and the ``effect`` of each setting in which
        an arm differs from an earlier arm of its model, or of the ``model`` if an earlier model has an arm with the same
        settings. An onset that some seeds never reach has no estimate; ``reached_fraction`` is the fraction of seeds that
        reach it.
    """
    values = {model: _indicator_values(table[table["model"] == model]) for model in arms}
    compared = {
        model: {name: arm for name, arm in model_arms.items() if arm.control in model_arms}
        for model, model_arms in arms.items()
    }
    parts = [
        _compare_arms(values[model], arms[model], model_arms, _model_effect_rows(values, compared, model))
        .assign(model=model)
        for model, model_arms in compared.items()
        if model_arms
    ]  # fmt: skip
    columns = [*KEYS, *_MEASURED]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _compare_arms(
    values: pd.Series,
    arms: Mapping[str, CollapseArm],
    compared: Mapping[str, CollapseArm],
    model_effects: Iterator[tuple],
) -> pd.DataFrame:
    """All analyses of one model's arms, ``compared`` being those that have a control."""
    rows = [row for name, arm in compared.items() for row in _arm_rows(values, name, arm)]
    rows += [*_threshold_rows(values, arms), *_effect_rows(values, compared), *model_effects]
    means = _means_over_seeds(pd.DataFrame(rows, columns=[*_ARM_KEYS, "metric", "seed", "estimate"]))
    pooled = [row for name, arm in compared.items() for row in _onset_tests(values, name, arm.control)]
    pooled += [row for name, arm in compared.items() for row in _stage_rows(values, name, arm.control)]
    by_seed = pd.concat([means, _lead_time_tests(means)], ignore_index=True)
    return pd.concat([by_seed, pd.DataFrame(pooled, columns=means.columns)], ignore_index=True)


def _indicator_values(table: pd.DataFrame) -> pd.Series:
    """Estimates of one model by ``indicator, arm, seed, generation``."""
    rows = table[table["seed"] != "all"]
    indicators = {
        (name.removesuffix("_tail") if group == "tail" else name, group): name for name, group in INDICATORS.items()
    }
    names = [indicators.get(key) for key in zip(rows["metric"], rows["group"], strict=True)]
    rows = rows.assign(indicator=names).dropna(subset=["indicator"])
    return rows.set_index(["indicator", "arm", "seed", "generation"])["estimate"].sort_index()


def _after_generation_0(values: pd.Series) -> pd.Series:
    """Values without generation 0, which an arm shares with its control."""
    return values[values.index.get_level_values("generation") > 0]


def _row_order(indicator: str) -> str:
    """Sort key: alphabetical, but with generative perplexity after the gibberish level, as in earlier tables."""
    return "gibberish_perplexity" if indicator == "generative_perplexity" else indicator


def _arm_rows(values: pd.Series, name: str, arm: CollapseArm) -> Iterator[tuple]:
    later = _after_generation_0(values)
    # A metric may be undefined in a late generation, such as the entropy of texts that are too short. It has no row then.
    seeds, arms = {*later.index.droplevel("generation")}, {*later.index.droplevel(["seed", "generation"])}
    indicators = sorted(values.index.unique("indicator"), key=_row_order)
    for seed in values.index[values.index.get_level_values("arm") == name].get_level_values("seed").unique():
        onsets = {
            indicator: onset(later[indicator, name, seed], later[indicator, arm.control])
            for indicator in indicators
            if (indicator, name, seed) in seeds and (indicator, arm.control) in arms
        }
        for indicator, generation in onsets.items():
            yield name, "onset", indicator, "generation", seed, generation
            yield name, "onset", indicator, "reached_fraction", seed, float(not np.isnan(generation))
            if indicator != "recall":
                yield name, "lead_time", indicator, "generations", seed, onsets["recall"] - generation
        for indicator in ("recall", "recall_tail", "recall_question"):
            if indicator in onsets:
                chain, control = values[indicator, name, seed], values[indicator, arm.control, seed]
                yield name, "recall_drop", indicator, "difference", seed, control.iloc[-1] - chain.iloc[-1]
        chain, control = values["recall", name, seed], values["recall", arm.control, seed]
        if arm.recover_after is not None:
            drop = control.iloc[-1] - chain[arm.recover_after]
            recovered = (chain.iloc[-1] - chain[arm.recover_after]) / drop if drop > 0 else np.nan
            yield name, "recovery", "recall", "fraction", seed, recovered
        for metric, value in growth_laws(1 - chain.to_numpy()).items():
            yield name, "growth_law", "recall", metric, seed, value


def _gap(values: pd.Series, indicator: str, name: str, control: str | None) -> np.ndarray | None:
    """(seeds, generations): an arm's indicator minus its control's; None if one of them has no complete chain."""
    if not {(indicator, name), (indicator, control)} <= set(values.index.droplevel(["seed", "generation"])):
        return None
    generations = values["recall", name].index.unique("generation")
    gap = (values[indicator, name] - values[indicator, control]).unstack("generation")
    gap = gap.reindex(columns=generations).dropna()
    return gap.to_numpy() if gap.shape[0] and gap.shape[1] > 1 else None


def _onset_tests(values: pd.Series, name: str, control: str | None) -> Iterator[tuple]:
    """Test whether each indicator departs from the control at all, pooled over seeds."""
    all_gaps = {indicator: _gap(values, indicator, name, control) for indicator in INDICATORS}
    gaps = {indicator: gap for indicator, gap in all_gaps.items() if gap is not None}
    p_values = {indicator: change_point(gap)["p"] for indicator, gap in gaps.items()}
    for indicator, corrected in zip(p_values, holm(pd.Series(p_values.values())), strict=True):
        n = gaps[indicator][:, 1:].size
        yield name, "onset", indicator, "p", n, p_values[indicator], np.nan, np.nan, ""
        yield name, "onset", indicator, "p_corrected", n, corrected, np.nan, np.nan, ""


def _stage_rows(values: pd.Series, name: str, control: str | None) -> Iterator[tuple]:
    """The last generation of each stage, pooled over seeds; only the tests where the change point is not significant."""
    all_gaps = {stage: _gap(values, indicator, name, control) for stage, (indicator, _) in STAGES.items()}
    gaps = {stage: gap for stage, gap in all_gaps.items() if gap is not None}
    changes = {stage: change_point(gap) for stage, gap in gaps.items()}
    p_values = pd.Series([change["p"] for change in changes.values()])
    for stage, corrected in zip(changes, holm(p_values), strict=True):
        change, n = changes[stage], gaps[stage][:, 1:].size
        for metric, value in (("p", change["p"]), ("p_corrected", corrected), ("slope", change["slope"])):
            yield name, "stage_end", stage, metric, n, value, np.nan, np.nan, ""
        if corrected < 1 - LEVEL:
            interval = (change["generation"], change["low"], change["high"])
            yield name, "stage_end", stage, "generation", n, *interval, "generations"


def _lead_time_tests(means: pd.DataFrame) -> pd.DataFrame:
    """Two-sided t tests over seeds of the lead times in ``means``, recovered from their intervals."""
    leads = means[(means["analysis"] == "lead_time") & (means["n"] > 1)]
    # Half the interval divided by the quantile at its level is the standard error.
    error = (leads["ci_high"] - leads["estimate"]) / distributions.t.ppf((1 + LEVEL) / 2, leads["n"] - 1)
    p = pd.Series(2 * distributions.t.sf(leads["estimate"].abs() / error, leads["n"] - 1), index=leads.index)
    corrected = p.groupby(leads["arm"], sort=False).transform(holm)
    empty = {"ci_low": np.nan, "ci_high": np.nan, "interval_over": ""}
    tests = [
        leads.assign(metric=metric, estimate=value, **empty) for metric, value in (("p", p), ("p_corrected", corrected))
    ]
    return pd.concat(tests)


def change_point(gap: np.ndarray) -> dict[str, float]:
    """The last generation before a chain departs from its control, and the mean step after it.

    Each generation starts from the losses of the previous one, so differences between two chains accumulate, and so does
    their noise. The model therefore treats steps from one generation to the next as independent, with mean 0 up to
    generation τ and mean b after it. τ and b are the least-squares estimates over all seeds.

    Args:
        gap: (seeds, generations), the arm's metric minus the control's, from generation 0 on.

    Returns:
        ``generation`` τ, with the smallest and largest τ that an F test at 95 % does not reject (``low, high``); the
        ``slope`` b; and ``p``, the fraction of simulated Gaussian chains without a change that fit at least as well.
    """
    steps = np.diff(gap, axis=1)
    squares, slopes = _residuals(steps[None])
    squares, best, degrees = squares[0], int(squares[0].argmin()), steps.size - 2
    null_distribution = _null_residual_fractions(*steps.shape)
    residual_fraction = squares[best] / (steps**2).sum() if steps.any() else 1.0
    limit = squares[best] * (1 + distributions.f.ppf(LEVEL, 1, degrees) / degrees) if degrees > 0 else np.inf
    accepted = np.flatnonzero(squares <= limit)
    return {
        "generation": float(best), "low": float(accepted[0]), "high": float(accepted[-1]), "slope": float(slopes[0, best]),
        "p": float((1 + (null_distribution <= residual_fraction).sum()) / (1 + _N_SIMULATIONS)),
    }  # fmt: skip


@cache
def _null_residual_fractions(seeds: int, generations: int) -> np.ndarray:
    """Fraction of the sum of squares that the best change point leaves, for simulated chains without a change."""
    noise = np.random.default_rng(0).standard_normal((_N_SIMULATIONS, seeds, generations))
    return _residuals(noise)[0].min(1) / (noise**2).sum((1, 2))


def _residuals(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residual sums of squares and slopes, both (…, τ), of steps (…, seeds, generations) with a change after τ."""
    seeds, generations = steps.shape[-2:]
    sums_after = steps.sum(-2)[..., ::-1].cumsum(-1)[..., ::-1]
    counts_after = seeds * np.arange(generations, 0, -1)
    residuals = (steps**2).sum((-1, -2))[..., None] - sums_after**2 / counts_after
    return residuals, sums_after / counts_after


def _effect_rows(values: pd.Series, arms: Mapping[str, CollapseArm]) -> Iterator[tuple]:
    """Final recall drop of each arm, minus that of the first earlier arm that differs in exactly one setting.

    The control does not count as a setting: recall does not depend on it.
    """
    settings = {name: arm.model_dump(exclude={"control"}) for name, arm in arms.items()}
    for i, name in enumerate(settings):
        differences = {
            predecessor: [key for key, value in settings[name].items() if value != settings[predecessor][key]]
            for predecessor in [*settings][:i]
        }
        reference = next((predecessor for predecessor, keys in differences.items() if len(keys) == 1), None)
        if reference is None:
            continue
        drops, reference_drops = (_final_drops(values, arm, arms[arm].control) for arm in (name, reference))
        yield from _effect_of(name, differences[reference][0], drops, reference_drops)


def _model_effect_rows(
    values: Mapping[str, pd.Series], arms: Mapping[str, Mapping[str, CollapseArm]], model: str
) -> Iterator[tuple]:
    """Final recall drop of each arm of a model, minus that of the first earlier model's arm with the same settings."""
    earlier = [
        (reference, name, arm)
        for reference in list(arms)[: list(arms).index(model)]
        for name, arm in arms[reference].items()
    ]
    for name, arm in arms[model].items():
        settings = arm.model_dump(exclude={"control"})
        same = (key for *key, earlier_arm in earlier if earlier_arm.model_dump(exclude={"control"}) == settings)
        if (key := next(same, None)) is not None:
            reference, reference_arm = key
            drops = _final_drops(values[model], name, arm.control)
            reference_drops = _final_drops(values[reference], reference_arm, arms[reference][reference_arm].control)
            yield from _effect_of(name, "model", drops, reference_drops)


def _effect_of(
    name: str, setting: str, drops: Mapping[tuple[str, str], float], reference_drops: Mapping[tuple[str, str], float]
) -> Iterator[tuple]:
    for (indicator, seed), drop in drops.items():
        if (indicator, seed) in reference_drops:
            yield name, "effect", setting, f"{indicator}_drop", seed, drop - reference_drops[indicator, seed]


def _final_drops(values: pd.Series, name: str, control: str | None) -> dict[tuple[str, str], float]:
    """The control's recall in the last generation minus an arm's, by indicator and seed."""
    seeds = values["recall", name].index.get_level_values("seed").unique()
    return {
        (indicator, seed): _final_value(values, indicator, control, seed) - _final_value(values, indicator, name, seed)
        for indicator in ("recall", "recall_tail")
        for seed in seeds
    }


def _final_value(values: pd.Series, indicator: str, arm: str | None, seed: str) -> float:
    """An indicator in the last generation; NaN if the chain does not have it."""
    key = (indicator, arm, seed)
    return float(values[key].iloc[-1]) if key in values.index.droplevel("generation") else np.nan


def onset(values: pd.Series, control: pd.Series) -> float:
    """The first generation from which an indicator stays outside the control's mean ± 2 standard deviations.

    Args:
        values: by generation.
        control: the control's values in all seeds and all generations after generation 0.

    Returns:
        The generation; NaN if there is none.
    """
    outside = (values - control.mean()).abs() > 2 * control.std()
    inside = np.flatnonzero(~outside.to_numpy())
    first = inside[-1] + 1 if len(inside) else 0
    return float(values.index[first]) if first < len(values) else np.nan


def growth_laws(error: np.ndarray) -> dict[str, float]:
    """Least-squares fits of two laws by which the error may grow from generation 0, each with one slope.

    ``linear``: e_g = e_0 + b g, the law of replacing data. ``bounded``: e_g = e_0 + b Σ_{k≤g} 1/k², which stays below
    e_0 + b π²/6, the law of accumulating data (Gerstgrasser et al. 2024, theorem 1 and the preceding one).
    ``aic_difference`` is Akaike's criterion of the linear law minus that of the bounded law: positive values favour the
    bounded law.
    """
    growth, generation = error - error[0], np.arange(len(error))
    shapes = {
        "linear": generation.astype(float),
        "bounded": np.cumsum(np.where(generation, 1 / np.maximum(generation, 1) ** 2, 0)),
    }
    slopes = {law: growth @ shape / (shape @ shape) for law, shape in shapes.items()}
    squares = {law: ((growth - slopes[law] * shape) ** 2).sum() for law, shape in shapes.items()}
    metrics = {f"{law}_slope": float(slope) for law, slope in slopes.items()}
    if min(squares.values()) <= 0:
        return metrics
    return metrics | {"aic_difference": float((len(error) - 1) * np.log(squares["linear"] / squares["bounded"]))}


def synthetic_fraction_sweeps(arms: Mapping[str, CollapseArm]) -> list[dict[float, str]]:
    """Groups of one model's arms that differ only in their synthetic fraction, by this fraction; no groups of one."""
    sweeps: dict[str, dict[float, str]] = {}
    for name, arm in arms.items():
        if arm.control in arms and arm.recover_after is None:
            settings = arm.model_dump_json(exclude={"synthetic_fraction"})
            sweeps.setdefault(settings, {})[arm.synthetic_fraction] = name
    return [sweep for sweep in sweeps.values() if len(sweep) > 1]


def _threshold_rows(values: pd.Series, arms: Mapping[str, CollapseArm]) -> Iterator[tuple]:
    """The synthetic fraction at which the recall drop exceeds two standard deviations of the control, for each sweep."""
    for sweep in synthetic_fraction_sweeps(arms):
        fractions = sorted(sweep)
        control = arms[sweep[fractions[0]]].control
        limit = 2 * _after_generation_0(values)["recall", control].std()
        for seed in values["recall", control].index.get_level_values("seed").unique():
            final_recall = values["recall", control, seed].iloc[-1]
            drops = [
                0.0,
                *(final_recall - values["recall", sweep[fraction], seed].iloc[-1] for fraction in fractions),
            ]
            threshold = threshold_crossing([0.0, *fractions], drops, limit)
            arm = sweep[fractions[-1]]
            yield arm, "threshold", "recall", "synthetic_fraction", seed, threshold
            yield arm, "threshold", "recall", "reached_fraction", seed, float(not np.isnan(threshold))


def threshold_crossing(fractions: list[float], drops: list[float], limit: float) -> float:
    """The fraction above which all drops exceed a limit, by linear interpolation; NaN if the last drop does not."""
    below = [i for i, drop in enumerate(drops) if drop <= limit]
    i = below[-1] if below else 0
    if i == len(drops) - 1:
        return np.nan
    return fractions[i] + (fractions[i + 1] - fractions[i]) * (limit - drops[i]) / (drops[i + 1] - drops[i])


def _means_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of metrics that all seeds have: without the seeds that never reach an onset, the mean is too early.

    An onset is only known to within one generation, so its variance over seeds is at least that of a uniform
    distribution, 1/12. A lead time is the difference of two onsets: at least 1/6.
    """
    keys = [*_ARM_KEYS, "metric"]
    means = rows.groupby(keys, sort=False)["estimate"].agg(["size", "count", "mean", "std"]).reset_index()
    means = means[means["count"] == means["size"]]
    rounding = means["metric"].map({"generation": 1 / 12, "generations": 1 / 6}).fillna(0.0)
    low, high = stats.seed_interval(means["mean"], np.sqrt(np.maximum(means["std"] ** 2, rounding)), means["count"])
    interval_over = np.where(means["count"] > 1, "seeds", "")
    means = means.rename(columns={"count": "n", "mean": "estimate"})
    return means.assign(ci_low=low, ci_high=high, interval_over=interval_over)[[*_ARM_KEYS, *_MEASURED]]
