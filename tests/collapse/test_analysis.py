"""Departures, lead times, thresholds and laws against chains whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from factlife.collapse.analysis import (
    _residuals,
    change_point,
    compare_with_controls,
    growth_laws,
    onset,
    synthetic_fraction_sweeps,
    threshold_crossing,
)
from factlife.config.collapse import CollapseArm

TRAINING = {"corpus": "people"}
CONTROL = CollapseArm(synthetic_fraction=0, generations=5, training=TRAINING)
NOISE = np.array([0.01, -0.01, 0.01, -0.01, 0.01, -0.01])


def series(values):
    return pd.Series(np.array(values, float), index=range(len(values)))


def test_departure_is_the_generation_from_which_on_values_stay_outside():
    control = series([0.9, 0.92, 0.9, 0.88, 0.9])

    assert onset(series([0.9, 0.5, 0.9, 0.8, 0.7]), control) == 3
    assert onset(series([0.9, 0.9, 0.9, 0.9, 0.7]), control) == 4
    # Both sides count: a figure that rises has left, too.
    assert onset(series([0.9, 1.1, 1.2, 1.3, 1.4]), control) == 1
    assert math.isnan(onset(series([0.9, 0.5, 0.5, 0.5, 0.9]), control))


def test_a_growing_and_a_bounded_error_are_told_apart():
    growing = growth_laws(0.1 + 0.05 * np.arange(7) + np.array([0, *NOISE]) / 100)
    bounded = growth_laws(0.1 + 0.05 * np.cumsum([0, *(1 / np.arange(1, 7) ** 2)]) + np.array([0, *NOISE]) / 100)

    assert growing["linear_slope"] == pytest.approx(0.05, abs=1e-3)
    assert bounded["bounded_slope"] == pytest.approx(0.05, abs=1e-3)
    assert growing["aic_difference"] < -10
    assert bounded["aic_difference"] > 10


def test_the_threshold_lies_on_the_line_between_two_shares():
    assert threshold_crossing([0, 0.5, 1], [0, 0.1, 0.3], 0.2) == pytest.approx(0.75)
    assert threshold_crossing([0, 0.5, 1], [0, 0.1, 0.3], 0.05) == pytest.approx(0.25)
    # A share that loses less again: from the last crossing on.
    assert threshold_crossing([0, 0.25, 0.5, 1], [0, 0.3, 0.1, 0.3], 0.2) == pytest.approx(0.75)
    assert math.isnan(threshold_crossing([0, 0.5, 1], [0, 0.1, 0.15], 0.2))


def chains():
    """Recall falls from generation 3 on and distinct pairs rise from 1 on, with share 1; with one half nothing falls."""
    arms = {
        "full": CollapseArm(generations=5, control="control", training=TRAINING),
        "half": CollapseArm(synthetic_fraction=0.5, generations=5, control="control", training=TRAINING),
        "recovering": CollapseArm(recover_after=3, generations=5, control="control", training=TRAINING),
        "control": CONTROL,
    }
    recall = {
        "full": [0, 0, 0, -0.3, -0.4, -0.5],
        "half": [0, 0, 0, 0, 0, 0],
        "recovering": [0, 0, 0, -0.4, -0.2, -0.1],
        "control": [0, 0, 0, 0, 0, 0],
    }
    rows = []
    for arm, fall in recall.items():
        for seed in (0, 1, 2):
            for generation in range(6):
                keys = {"model": "m", "arm": arm, "seed": str(seed), "generation": generation}
                noise = NOISE[(generation + seed) % 6] / 10
                rows.append(
                    keys
                    | {"group": "all", "metric": "recall", "estimate": 0.9 + fall[generation] * (1 + seed / 50) + noise}
                )
                varied = 0.2 + 0.1 * generation * (arm == "full") + noise
                rows.append(keys | {"group": "synthetic", "metric": "distinct_2", "estimate": varied})
    return pd.DataFrame(rows), arms


def compared(table, arms):
    """All rows, which are about the one model."""
    found = compare_with_controls(table, {"m": arms})
    assert (found.columns[0], set(found["model"])) == ("model", {"m"})
    return found


def test_what_leaves_first_leads():
    found = compared(*chains()).set_index(["arm", "analysis", "indicator", "metric"])["estimate"]

    assert found["full", "onset", "recall", "generation"] == 3
    assert found["full", "onset", "distinct_2", "generation"] == 1
    assert found["full", "lead_time", "distinct_2", "generations"] == 2
    # Recall goes with the control until generation 2.
    assert found["full", "stage_end", "knowledge", "generation"] == 2
    assert found["full", "stage_end", "knowledge", "p"] < 0.01
    assert ("half", "stage_end", "knowledge", "generation") not in found.index
    assert ("half", "onset", "recall", "generation") not in found.index
    assert found["full", "recall_drop", "recall", "difference"] == pytest.approx(0.51, abs=0.003)
    assert found["recovering", "recovery", "recall", "fraction"] == pytest.approx(0.75, abs=0.02)


def test_indicators_are_tested_with_a_correction_for_their_number():
    found = compared(*chains()).set_index(["arm", "analysis", "indicator", "metric"])["estimate"]

    # Two indicators: Holm doubles the smaller p, and the larger is no smaller than that.
    for arm in ("full", "half", "recovering"):
        p = [found[arm, "onset", name, "p"] for name in ("recall", "distinct_2")]
        corrected = [found[arm, "onset", name, "p_corrected"] for name in ("recall", "distinct_2")]
        assert min(corrected) == pytest.approx(min(1, 2 * min(p)))
        assert max(corrected) == pytest.approx(min(1, max(2 * min(p), *p)))
    assert found["full", "onset", "recall", "p_corrected"] < 0.01
    assert found["half", "onset", "recall", "p_corrected"] > 0.05
    assert found["full", "stage_end", "knowledge", "p_corrected"] == found["full", "stage_end", "knowledge", "p"]


def test_three_equal_leads_are_known_to_the_generation_and_no_better():
    found = compared(*chains()).set_index(["arm", "analysis", "indicator", "metric"])

    # All three seeds lead by 2; two roundings to a generation leave a variance of 1/6: t = 2 / sqrt(1/6/3) = 8.49.
    lead = found.loc[("full", "lead_time", "distinct_2", "generations")]
    error = math.sqrt(1 / 18)
    assert (lead["ci_high"] - lead["ci_low"]) / 2 == pytest.approx(4.303 * error, rel=1e-3)
    # With two degrees of freedom P(|T| > t) = 1 - t / sqrt(t² + 2).
    t = 2 / error
    assert found.loc[("full", "lead_time", "distinct_2", "p"), "estimate"] == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_the_threshold_is_between_the_share_that_loses_nothing_and_the_one_that_does():
    found = compared(*chains())

    row = found[found["analysis"] == "threshold"].iloc[0]
    assert row["arm"] == "full"
    assert 0.5 < row["estimate"] < 0.52
    assert row["n"] == 3
    assert row["ci_low"] < row["estimate"] < row["ci_high"]
    assert row["interval_over"] == "seeds"


def test_one_seed_has_estimates_and_no_intervals():
    table, arms = chains()

    found = compared(table[table["seed"] == "0"], arms)

    alone = found[(found["analysis"] != "stage_end") & ~found["metric"].str.startswith("p")]
    assert (alone["n"] == 1).all()
    assert alone["ci_low"].isna().all()
    assert (alone["interval_over"] == "").all()


def test_the_effect_is_that_of_the_one_setting_that_differs():
    found = compared(*chains()).query("analysis == 'effect'").set_index(["arm", "indicator", "metric"])

    # Against the first arm, which loses 0.51 over seeds: the half loses nothing, the recovering one 0.1.
    assert found.loc[("half", "synthetic_fraction", "recall_drop"), "estimate"] == pytest.approx(-0.51, abs=0.003)
    assert found.loc[("recovering", "recover_after", "recall_drop"), "estimate"] == pytest.approx(-0.408, abs=0.003)
    assert (found["n"] == 3).all()


def test_the_effect_is_against_the_nearest_arm_and_not_only_the_first():
    table, arms = chains()
    arms["domain"] = arms["half"].model_copy(update={"block_size": 8})
    domain = table[table["arm"] == "half"].assign(arm="domain")
    domain["estimate"] -= 0.1 * ((domain["metric"] == "recall") & (domain["generation"] == 5))
    found = (
        compared(pd.concat([table, domain]), arms)
        .query("analysis == 'effect'")
        .set_index(["arm", "indicator", "metric"])
    )
    assert found.loc[("domain", "block_size", "recall_drop"), "estimate"] == pytest.approx(0.1, abs=1e-6)


def test_a_departure_that_one_seed_never_makes_has_a_share_and_no_mean():
    table, arms = chains()
    stays = (table["arm"] == "full") & (table["seed"] == "2") & (table["metric"] == "recall")
    table.loc[stays, "estimate"] = 0.9

    found = compared(table, arms).set_index(["arm", "analysis", "indicator", "metric"])

    assert ("full", "onset", "recall", "generation") not in found.index
    assert found.loc[("full", "onset", "recall", "reached_fraction"), "estimate"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("gone", [[1, 2, 3, 4, 5], [4, 5], [2]])
def test_a_figure_that_some_generations_do_not_have_stops_nothing(gone):
    table, arms = chains()
    lost = (table["metric"] == "distinct_2") & (table["arm"] == "full") & table["generation"].isin(gone)
    keys = ["arm", "analysis", "indicator", "metric"]
    whole = compared(table, arms).set_index(keys)["estimate"]
    of_one_seed, of_all = (
        compared(table[~rows], arms).set_index(keys)["estimate"] for rows in (lost & (table["seed"] == "0"), lost)
    )
    for found in (of_one_seed, of_all):
        assert found.drop("full").index.equals(whole.drop("full").index)
        recall = ("full", "onset", "recall", "generation")
        assert found[recall] == whole[recall]
    # A change point needs every generation.
    assert ("full", "onset", "distinct_2", "p") in of_one_seed and (
        "full",
        "onset",
        "distinct_2",
        "p",
    ) not in of_all


def test_nothing_leaves_in_the_generation_that_all_arms_share():
    table, arms = chains()
    # The control settles after generation 0, with which all began.
    first = (table["generation"] == 0) & (table["metric"] == "distinct_2")
    table.loc[first, "estimate"] += 0.5

    found = compared(table, arms).set_index(["arm", "analysis", "indicator", "metric"])

    assert found.loc[("full", "onset", "distinct_2", "generation"), "estimate"] == 1
    assert found.loc[("half", "onset", "distinct_2", "reached_fraction"), "estimate"] == 0


def test_arms_that_differ_in_share_alone_are_a_family():
    _, arms = chains()

    assert synthetic_fraction_sweeps(arms) == [{1.0: "full", 0.5: "half"}]
    assert synthetic_fraction_sweeps({name: arms[name] for name in ("full", "recovering", "control")}) == []


def test_models_are_compared_within_themselves_and_by_the_same_arm():
    table, arms = chains()
    # The small model's arms recall less by 0.1 in the last generation, and so do not its controls.
    small = table.assign(model="small")
    last = (small["metric"] == "recall") & (small["generation"] == 5) & (small["arm"] != "control")
    small.loc[last, "estimate"] -= 0.1
    keys = ["arm", "analysis", "indicator", "metric"]

    found = compare_with_controls(pd.concat([table, small]), {"m": arms, "small": arms})

    by_model = {model: rows.drop(columns="model").reset_index(drop=True) for model, rows in found.groupby("model")}
    assert list(by_model) == ["m", "small"]
    pd.testing.assert_frame_equal(by_model["m"], compared(table, arms).drop(columns="model"))
    is_size = (by_model["small"]["analysis"] == "effect") & (by_model["small"]["indicator"] == "model")
    size = by_model["small"][is_size].set_index(["arm", "metric"])
    assert set(size.index) == {(arm, "recall_drop") for arm in ("full", "half", "recovering")}
    assert size["estimate"].to_numpy() == pytest.approx(0.1)
    alone = compared(small.assign(model="m"), arms).drop(columns="model")
    pd.testing.assert_frame_equal(by_model["small"][~is_size].set_index(keys), alone.set_index(keys))


def test_a_model_has_no_effect_where_another_setting_differs_too():
    table, arms = chains()
    longer = {name: arm.model_copy(update={"documents": 9}) for name, arm in arms.items()}
    both = pd.concat([table, table.assign(model="small")])

    found = compare_with_controls(both, {"m": arms, "small": longer})

    assert not ((found["analysis"] == "effect") & (found["indicator"] == "model")).any()


def test_the_arm_of_another_model_is_no_control():
    table, arms = chains()
    alone = {name: arm for name, arm in arms.items() if name != "control"}
    small = table[table["arm"] != "control"].assign(model="small")

    found = compare_with_controls(pd.concat([table, small]), {"m": arms, "small": alone})

    assert set(found["model"]) == {"m"}
    assert compare_with_controls(small, {"small": alone}).empty


def test_a_change_point_is_where_steps_begin():
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 8))
    steps = np.where(np.arange(8) >= 3, -0.1, 0) + noise
    gap = np.concatenate([np.zeros((3, 1)), steps.cumsum(1)], axis=1)

    found = change_point(gap)

    assert found["generation"] == found["low"] == found["high"] == 3
    assert found["slope"] == pytest.approx(steps[:, 3:].mean())
    assert found["p"] < 0.001


def test_residuals_of_change_points_are_those_of_least_squares():
    steps = np.random.default_rng(1).normal(size=(2, 5))

    squares, slopes = _residuals(steps)

    for end in range(5):
        after = steps[:, end:]
        assert slopes[end] == pytest.approx(after.mean())
        assert squares[end] == pytest.approx((steps[:, :end] ** 2).sum() + ((after - after.mean()) ** 2).sum())


def test_noise_that_adds_up_is_seldom_a_change_point():
    rng = np.random.default_rng(2)
    walks = [np.concatenate([np.zeros((2, 1)), rng.normal(size=(2, 5)).cumsum(1)], axis=1) for _ in range(200)]

    found = sum(change_point(walk)["p"] < 0.05 for walk in walks)

    # 5 % of 200, within 3 standard deviations.
    assert found <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)
