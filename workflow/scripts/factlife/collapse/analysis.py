"""What the chains say together: when each figure leaves the control, which leaves first, how much is lost, by which law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats as distributions

from factlife import stats
from factlife.config.collapse import Arm
from factlife.stats import LEVEL, holm

KEYS = ["arm", "analysis", "indicator"]
# Simulations behind the p-value of a change point.
_SIMULATED = 4000
# What stands for each stage's end: facts are lost, sentences are no longer whole, questions are no longer answered.
STAGES = {
    "knowledge": ("recall", "all"),
    "fluency": ("parsed_share", "synthetic"),
    "instructions": ("recall_question", "all"),
}
INDICATORS = {
    "recall": "all", "recall_tail": "tail", "recall_question": "all", "recall_paraphrase": "all", "loss_nats": "all",
    "confidence": "all", "confidently_wrong": "all", "calibration_error": "all", "perplexity": "all",
    "fact_precision": "all", "coverage": "all", "tail_coverage": "all", "divergence_hellinger": "all", "evenness": "all",
    "judge_perplexity": "synthetic", "parsed_share": "synthetic", "entropy": "synthetic", "words": "synthetic",
    "distinct_2": "synthetic", "unique": "synthetic", "self_bleu": "synthetic", "vendi": "synthetic",
    "gibberish": "synthetic",
}  # fmt: skip


def analyse(table: pd.DataFrame, arms: Mapping[str, Arm]) -> pd.DataFrame:
    """Everything that compares an arm with its control.

    Args:
        table: of ``summarise``.
        arms: settings of the arms in it.

    Returns:
        Rows keyed by ``arm, analysis, indicator``, then ``metric, n, estimate, ci_low, ci_high, interval_over``: means over
        seeds, with Student's t interval where there are several. Analyses: ``departure`` and ``lead`` of each indicator,
        the ends of ``stages``, what is ``lost`` in the end, how much ``recovery`` brings back, the ``law`` of the error,
        the ``threshold`` share, and the ``effect`` of each setting in which an arm differs from the first one. What some
        seeds never reach has no estimate, but the ``reached`` share of seeds.
    """
    values = _values(table)
    held = {name: arm for name, arm in arms.items() if arm.control in arms}
    rows = [row for name, arm in held.items() for row in _of_arm(values, name, arm)]
    rows += [*_thresholds(values, arms), *_effects(values, held)]
    found = _over_seeds(pd.DataFrame(rows, columns=[*KEYS, "metric", "seed", "estimate"]))
    more = [row for name, arm in held.items() for row in _changes(values, name, arm.control)]
    more += [row for name, arm in held.items() for row in _stages(values, name, arm.control)]
    tested = pd.concat([found, _leads(found)], ignore_index=True)
    return pd.concat([tested, pd.DataFrame(more, columns=found.columns)], ignore_index=True)


def _values(table: pd.DataFrame) -> pd.Series:
    """Estimates by ``indicator, arm, seed, generation``."""
    rows = table[table["seed"] != "all"]
    wanted = {
        (name.removesuffix("_tail") if group == "tail" else name, group): name for name, group in INDICATORS.items()
    }
    names = [wanted.get(key) for key in zip(rows["metric"], rows["group"], strict=True)]
    rows = rows.assign(indicator=names).dropna(subset=["indicator"])
    return rows.set_index(["indicator", "arm", "seed", "generation"])["estimate"].sort_index()


def _after_the_first(values: pd.Series) -> pd.Series:
    """Without generation 0, which an arm and its control share: nothing can leave there."""
    return values[values.index.get_level_values("generation") > 0]


def _of_arm(values: pd.Series, name: str, arm: Arm) -> Iterator[tuple]:
    later = _after_the_first(values)
    # Where a generation is too far gone for a figure, such as texts too short for their entropy, it has no row.
    seeds, arms = {*later.index.droplevel("generation")}, {*later.index.droplevel(["seed", "generation"])}
    for seed in values.index[values.index.get_level_values("arm") == name].get_level_values("seed").unique():
        left = {
            indicator: departure(later[indicator, name, seed], later[indicator, arm.control])
            for indicator in values.index.get_level_values("indicator").unique()
            if (indicator, name, seed) in seeds and (indicator, arm.control) in arms
        }
        for indicator, generation in left.items():
            yield name, "departure", indicator, "generation", seed, generation
            yield name, "departure", indicator, "reached", seed, float(not np.isnan(generation))
            if indicator != "recall":
                yield name, "lead", indicator, "generations", seed, left["recall"] - generation
        for indicator in ("recall", "recall_tail", "recall_question"):
            if indicator in left:
                mine, control = values[indicator, name, seed], values[indicator, arm.control, seed]
                yield name, "lost", indicator, "share", seed, control.iloc[-1] - mine.iloc[-1]
        mine, control = values["recall", name, seed], values["recall", arm.control, seed]
        if arm.recover_after is not None:
            lost = control.iloc[-1] - mine[arm.recover_after]
            back = (mine.iloc[-1] - mine[arm.recover_after]) / lost if lost > 0 else np.nan
            yield name, "recovery", "recall", "share", seed, back
        for metric, value in laws(1 - mine.to_numpy()).items():
            yield name, "law", "recall", metric, seed, value


def _gap(values: pd.Series, indicator: str, name: str, control: str) -> np.ndarray | None:
    """(seeds, generations): an arm's figure less its control's; None where not both have it."""
    if not {(indicator, name), (indicator, control)} <= set(values.index.droplevel(["seed", "generation"])):
        return None
    every = values["recall", name].index.unique("generation")
    gap = (values[indicator, name] - values[indicator, control]).unstack("generation").reindex(columns=every).dropna()
    return gap.to_numpy() if gap.shape[0] and gap.shape[1] > 1 else None


def _changes(values: pd.Series, name: str, control: str) -> Iterator[tuple]:
    """Whether each indicator leaves the control at all, from all seeds together."""
    gaps = {indicator: _gap(values, indicator, name, control) for indicator in INDICATORS}
    found = {indicator: change_point(gap)["p"] for indicator, gap in gaps.items() if gap is not None}
    for indicator, corrected in zip(found, holm(pd.Series(found.values())), strict=True):
        n = gaps[indicator][:, 1:].size
        yield name, "departure", indicator, "p", n, found[indicator], np.nan, np.nan, ""
        yield name, "departure", indicator, "p_corrected", n, corrected, np.nan, np.nan, ""


def _stages(values: pd.Series, name: str, control: str) -> Iterator[tuple]:
    """The generation until which each stage lasts, from all seeds together; without one where nothing tells a change."""
    gaps = {stage: _gap(values, indicator, name, control) for stage, (indicator, _) in STAGES.items()}
    found = {stage: change_point(gap) for stage, gap in gaps.items() if gap is not None}
    for stage, corrected in zip(found, holm(pd.Series([one["p"] for one in found.values()])), strict=True):
        one, n = found[stage], gaps[stage][:, 1:].size
        for metric, value in (("p", one["p"]), ("p_corrected", corrected), ("slope", one["slope"])):
            yield name, "stages", stage, metric, n, value, np.nan, np.nan, ""
        if corrected < 1 - LEVEL:
            yield name, "stages", stage, "generation", n, one["generation"], one["low"], one["high"], "generations"


def _leads(found: pd.DataFrame) -> pd.DataFrame:
    """Whether leads differ from none: Student's t over seeds, to either side, of which ``found`` holds the interval."""
    leads = found[(found["analysis"] == "lead") & (found["n"] > 1)]
    # Half the interval over the quantile at its level is the standard error.
    error = (leads["ci_high"] - leads["estimate"]) / distributions.t.ppf((1 + LEVEL) / 2, leads["n"] - 1)
    p = pd.Series(2 * distributions.t.sf(leads["estimate"].abs() / error, leads["n"] - 1), index=leads.index)
    corrected = p.groupby(leads["arm"], sort=False).transform(holm)
    empty = {"ci_low": np.nan, "ci_high": np.nan, "interval_over": ""}
    tests = [
        leads.assign(metric=metric, estimate=value, **empty) for metric, value in (("p", p), ("p_corrected", corrected))
    ]
    return pd.concat(tests)


def change_point(gap: np.ndarray) -> dict[str, float]:
    """The generation until which a chain goes with its control, and by how much it leaves it in each one after.

    What a generation loses, the next ones start from, so differences between two chains add up, and so does their noise.
    Steps from one generation to the next are therefore taken as independent, with mean 0 until generation τ and mean b
    after it; τ and b are those of least squares, from all seeds together.

    Args:
        gap: (seeds, generations), the arm's figure less the control's, from generation 0 on.

    Returns:
        ``generation`` τ, with the least and greatest τ that an F test at 95 % does not reject (``low, high``); the ``slope``
        b; and ``p``, how often steps without any change, simulated as Gaussian noise, are explained as well.
    """
    steps = np.diff(gap, axis=1)
    squares, slopes = _residuals(steps[None])
    squares, best, free = squares[0], int(squares[0].argmin()), steps.size - 2
    chance = _explained_by_chance(*steps.shape)
    share = squares[best] / (steps**2).sum() if steps.any() else 1.0
    limit = squares[best] * (1 + distributions.f.ppf(LEVEL, 1, free) / free) if free > 0 else np.inf
    within = np.flatnonzero(squares <= limit)
    return {
        "generation": float(best), "low": float(within[0]), "high": float(within[-1]), "slope": float(slopes[0, best]),
        "p": float((1 + (chance <= share).sum()) / (1 + _SIMULATED)),
    }  # fmt: skip


@cache
def _explained_by_chance(seeds: int, generations: int) -> np.ndarray:
    """Of steps of noise alone, the share of squares that the best change leaves."""
    noise = np.random.default_rng(0).standard_normal((_SIMULATED, seeds, generations))
    return _residuals(noise)[0].min(1) / (noise**2).sum((1, 2))


def _residuals(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares, and slopes, (…, τ), that are left of steps (…, seeds, generations) if they change after τ."""
    seeds, generations = steps.shape[-2:]
    # Sums of the steps after τ, and how many they are.
    after = steps.sum(-2)[..., ::-1].cumsum(-1)[..., ::-1]
    count = seeds * np.arange(generations, 0, -1)
    return (steps**2).sum((-1, -2))[..., None] - after**2 / count, after / count


def _effects(values: pd.Series, arms: Mapping[str, Arm]) -> Iterator[tuple]:
    """How much more recall is lost in the end than by the first arm before it from which an arm differs in one setting.

    Controls may differ, and who judges the text, which recall does not depend on.
    """
    settings = {name: arm.model_dump(exclude={"control", "judge"}) for name, arm in arms.items()}
    for place, name in enumerate(settings):
        mine = settings[name]
        against = {other: [key for key in mine if mine[key] != settings[other][key]] for other in [*settings][:place]}
        first = next((other for other, differs in against.items() if len(differs) == 1), None)
        if first is None:
            continue
        for indicator in ("recall", "recall_tail"):
            for seed in values["recall", name].index.get_level_values("seed").unique():
                lost = [
                    _end(values, indicator, arms[one].control, seed) - _end(values, indicator, one, seed)
                    for one in (name, first)
                ]
                yield name, "effect", against[first][0], f"{indicator}_lost", seed, lost[0] - lost[1]


def _end(values: pd.Series, indicator: str, arm: str, seed: str) -> float:
    """A figure in the last generation; NaN where the chain does not have it."""
    key = (indicator, arm, seed)
    return float(values[key].iloc[-1]) if key in values.index.droplevel("generation") else np.nan


def departure(values: pd.Series, control: pd.Series) -> float:
    """The generation from which on a figure stays outside the control's mean ± 2 standard deviations; NaN for never.

    Args:
        values: by generation.
        control: all values of the control, of all its seeds and generations after the first.
    """
    outside = (values - control.mean()).abs() > 2 * control.std()
    inside = np.flatnonzero(~outside.to_numpy())
    first = inside[-1] + 1 if len(inside) else 0
    return float(values.index[first]) if first < len(values) else np.nan


def laws(error: np.ndarray) -> dict[str, float]:
    """Two laws of the error's growth from generation 0, each with one slope, fitted by least squares.

    ``growing``: e_g = e_0 + b g, as where data are replaced; ``bounded``: e_g = e_0 + b Σ_{k≤g} 1/k², which stays below
    b π²/6, as where they accumulate (Gerstgrasser et al. 2024, theorem 1 and the one before it). ``aic_difference`` is Akaike's
    criterion of ``growing`` less that of ``bounded``: positive where the bounded law fits better.
    """
    gained, generation = error - error[0], np.arange(len(error))
    shapes = {
        "growing": generation.astype(float),
        "bounded": np.cumsum(np.where(generation, 1 / np.maximum(generation, 1) ** 2, 0)),
    }
    slopes = {law: gained @ shape / (shape @ shape) for law, shape in shapes.items()}
    squares = {law: ((gained - slopes[law] * shape) ** 2).sum() for law, shape in shapes.items()}
    figures = {f"{law}_slope": float(slope) for law, slope in slopes.items()}
    if min(squares.values()) <= 0:
        return figures
    return figures | {"aic_difference": float((len(error) - 1) * np.log(squares["growing"] / squares["bounded"]))}


def families(arms: Mapping[str, Arm]) -> list[dict[float, str]]:
    """Arms that differ in their share of synthetic text alone, by share; those of one share only are left out."""
    found: dict[str, dict[float, str]] = {}
    for name, arm in arms.items():
        if arm.control in arms and arm.recover_after is None:
            found.setdefault(arm.model_dump_json(exclude={"synthetic_share"}), {})[arm.synthetic_share] = name
    return [family for family in found.values() if len(family) > 1]


def _thresholds(values: pd.Series, arms: Mapping[str, Arm]) -> Iterator[tuple]:
    """For arms that differ in their share alone: the share at which what is lost leaves the control's band."""
    for family in families(arms):
        shares = sorted(family)
        control = arms[family[shares[0]]].control
        limit = 2 * _after_the_first(values)["recall", control].std()
        for seed in values["recall", control].index.get_level_values("seed").unique():
            end = values["recall", control, seed].iloc[-1]
            lost = [0.0, *(end - values["recall", family[share], seed].iloc[-1] for share in shares)]
            share = crossing([0.0, *shares], lost, limit)
            yield family[shares[-1]], "threshold", "recall", "share", seed, share
            yield family[shares[-1]], "threshold", "recall", "reached", seed, float(not np.isnan(share))


def crossing(shares: list[float], lost: list[float], limit: float) -> float:
    """The smallest share, between those tried by straight lines, from which on more than a limit is lost; NaN for none."""
    below = [place for place, loss in enumerate(lost) if loss <= limit]
    at = below[-1] if below else 0
    if at == len(lost) - 1:
        return np.nan
    return shares[at] + (shares[at + 1] - shares[at]) * (limit - lost[at]) / (lost[at + 1] - lost[at])


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, where all of them have the figure: a mean of those alone that got there would be too early.

    A generation stands for all that happens since the one before, so the variance over seeds is taken to be no less than
    that of a uniform, 1/12; a lead is of two such, 1/6.
    """
    keys = [*KEYS, "metric"]
    found = rows.groupby(keys, sort=False)["estimate"].agg(["size", "count", "mean", "std"]).reset_index()
    found = found[found["count"] == found["size"]]
    rounding = found["metric"].map({"generation": 1 / 12, "generations": 1 / 6}).fillna(0.0)
    low, high = stats.seed_interval(found["mean"], np.sqrt(np.maximum(found["std"] ** 2, rounding)), found["count"])
    over = np.where(found["count"] > 1, "seeds", "")
    found = found.rename(columns={"count": "n", "mean": "estimate"})
    return found.assign(ci_low=low, ci_high=high, interval_over=over)[
        [*keys, "n", "estimate", "ci_low", "ci_high", "interval_over"]
    ]
