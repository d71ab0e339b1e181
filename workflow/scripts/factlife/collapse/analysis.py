"""What the chains say together: when each figure leaves the control, which leaves first, how much is lost, by which law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats as distributions

from factlife.config.collapse import Arm
from factlife.stats import LEVEL

KEYS = ["arm", "analysis", "indicator"]
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
        and the ``threshold`` share. An arm whose figure never leaves the control's band has no departure.
    """
    values = _values(table)
    rows = [row for name, arm in arms.items() if arm.control in arms for row in _of_arm(values, name, arm)]
    rows += list(_thresholds(values, arms))
    return _over_seeds(pd.DataFrame(rows, columns=[*KEYS, "metric", "seed", "estimate"]))


def _values(table: pd.DataFrame) -> pd.Series:
    """Estimates by ``indicator, arm, seed, generation``."""
    rows = table[table["seed"] != "all"]
    wanted = {
        (name.removesuffix("_tail") if group == "tail" else name, group): name for name, group in INDICATORS.items()
    }
    names = [wanted.get(key) for key in zip(rows["metric"], rows["group"], strict=True)]
    rows = rows.assign(indicator=names).dropna(subset=["indicator"])
    return rows.set_index(["indicator", "arm", "seed", "generation"])["estimate"].sort_index()


def _of_arm(values: pd.Series, name: str, arm: Arm) -> Iterator[tuple]:
    for seed in values.index[values.index.get_level_values("arm") == name].get_level_values("seed").unique():
        left = {
            indicator: departure(values[indicator, name, seed], values[indicator, arm.control])
            for indicator in values.index.get_level_values("indicator").unique()
            if (indicator, name, seed) in values.index.droplevel("generation")
        }
        for indicator, generation in left.items():
            yield name, "departure", indicator, "generation", seed, generation
            yield name, "lead", indicator, "generations", seed, left["recall"] - generation
        for stage, (indicator, _) in STAGES.items():
            yield name, "stages", stage, "generation", seed, left.get(indicator, np.nan)
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


def departure(values: pd.Series, control: pd.Series) -> float:
    """The generation from which on a figure stays outside the control's mean ± 2 standard deviations; NaN for never.

    Args:
        values: by generation.
        control: all values of the control, of all its seeds and generations.
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


def _thresholds(values: pd.Series, arms: Mapping[str, Arm]) -> Iterator[tuple]:
    """For arms that differ in their share alone: the share at which what is lost leaves the control's band."""
    families: dict[str, dict[float, str]] = {}
    for name, arm in arms.items():
        if arm.control in arms and arm.recover_after is None:
            families.setdefault(arm.model_dump_json(exclude={"synthetic_share"}), {})[arm.synthetic_share] = name
    for family in families.values():
        shares = sorted(family)
        if len(shares) < 2:
            continue
        control = arms[family[shares[0]]].control
        limit = 2 * values["recall", control].std()
        for seed in values["recall", control].index.get_level_values("seed").unique():
            end = values["recall", control, seed].iloc[-1]
            lost = [0.0, *(end - values["recall", family[share], seed].iloc[-1] for share in shares)]
            yield family[shares[-1]], "threshold", "recall", "share", seed, crossing([0.0, *shares], lost, limit)


def crossing(shares: list[float], lost: list[float], limit: float) -> float:
    """The smallest share, between those tried by straight lines, from which on more than a limit is lost; NaN for none."""
    below = [place for place, loss in enumerate(lost) if loss <= limit]
    at = below[-1] if below else 0
    if at == len(lost) - 1:
        return np.nan
    return shares[at] + (shares[at + 1] - shares[at]) * (limit - lost[at]) / (lost[at + 1] - lost[at])


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    keys = [*KEYS, "metric"]
    found = rows.groupby(keys, sort=False)["estimate"].agg(["count", "mean", "std"]).reset_index()
    found = found[found["count"] > 0]
    half = (
        distributions.t.ppf((1 + LEVEL) / 2, (found["count"] - 1).clip(lower=1))
        * found["std"]
        / np.sqrt(found["count"])
    )
    return pd.DataFrame(
        {key: found[key] for key in keys}
        | {
            "n": found["count"],
            "estimate": found["mean"],
            "ci_low": found["mean"] - half,
            "ci_high": found["mean"] + half,
        }
        | {"interval_over": np.where(half.notna(), "seeds", "")}
    )
