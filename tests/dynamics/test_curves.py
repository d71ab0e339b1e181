"""Numbers of curves whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.dynamics.curves import plateau, power_law, steps_to_level

STEPS = np.array([0, 10, 20, 40, 80])


@pytest.mark.parametrize(
    ("curve", "level", "step"),
    [
        ([0, 0.25, 0.5, 0.75, 1], 0.5, 20),
        ([0, 0.25, 0.45, 0.85, 1], 0.5, 22.5),
        ([0.6, 0.7, 0.8, 0.9, 1], 0.5, 0),
        ([0, 0, 0, 0, 0.4], 0.5, np.inf),
        # The first time counts, also if it is lost again.
        ([0, 1, 0, 0, 1], 0.5, 5),
    ],
)
def test_steps_to_a_level(curve, level, step):
    assert steps_to_level(STEPS, np.array(curve), level) == pytest.approx(step)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.floats(0.01, 0.99))
def test_steps_to_a_level_are_those_of_interpolation(heights, level):
    curve = np.sort(heights)
    found = steps_to_level(STEPS, curve, level)
    if curve[-1] < level:
        assert found == np.inf
    elif np.isfinite(found):
        assert np.interp(found, STEPS, curve) == pytest.approx(max(level, curve[0]), abs=1e-9)


def test_many_curves_at_once_are_each_by_itself():
    curves = np.random.default_rng(0).random((7, 3, 5))
    for function in (lambda one: steps_to_level(STEPS, one, 0.6), lambda one: power_law(STEPS, one)[1]):
        together = function(curves)
        assert together.shape == (7, 3)
        for place in np.ndindex(7, 3):
            np.testing.assert_allclose(together[place], function(curves[place]))


@pytest.mark.parametrize("exponent", [-1.5, -0.2, 0, 0.7])
@pytest.mark.parametrize("scale", [0.05, 3])
def test_a_planted_power_is_recovered(exponent, scale):
    steps = np.array([0, 1, 2, 5, 30, 400])
    curve = scale * np.maximum(steps, 1e-9) ** exponent
    assert power_law(steps, curve) == pytest.approx((scale, exponent))
    # What is gone has no logarithm and is left out.
    curve[3] = 0
    assert power_law(steps, curve) == pytest.approx((scale, exponent))


def test_a_planted_power_is_recovered_from_noise_as_polyfit_does():
    rng = np.random.default_rng(1)
    steps = np.arange(1, 200)
    curve = 0.9 * steps**-0.4 * np.exp(rng.normal(0, 0.05, len(steps)))
    factor, exponent = power_law(steps, curve)
    assert [exponent, np.log(factor)] == pytest.approx(np.polyfit(np.log(steps), np.log(curve), 1))
    assert exponent == pytest.approx(-0.4, abs=0.02)


def test_one_point_has_no_power():
    assert np.isnan(power_law(STEPS, np.array([1, 0.5, 0, 0, 0]))).all()


def test_plateau_is_the_time_near_the_loss_of_who_knows_no_fact():
    steps, entropy = np.arange(0, 101, 10), np.array(2.0)
    # Falls to the entropy by step 20, stays until 60, falls to nothing by 80.
    losses = np.array([6, 4, 2, 2, 2, 2, 2, 1, 0, 0, 0.0])
    # 2.2 is crossed at 19, 1.8 at 62.
    assert plateau(steps, losses, entropy) == pytest.approx((43, 62))
    assert plateau(steps, np.maximum(losses, 2), entropy) == (np.inf, np.inf)
    lengths, ends = plateau(steps, np.stack([losses, losses * 2]), np.array([2.0, 4.0]))
    assert (lengths, ends) == (pytest.approx([43, 43]), pytest.approx([62, 62]))
