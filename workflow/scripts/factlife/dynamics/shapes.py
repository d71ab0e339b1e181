"""Numbers that describe a curve: when it crosses a level, how fast it fades, how long it stays flat.

All take curves in their last axis, so that thousands of resampled curves go through at once.
"""

from __future__ import annotations

import numpy as np


def steps_to(steps: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """The first step at which curves reach a level, between checkpoints on a straight line.

    Args:
        steps: (points,), rising.
        curves: (..., points).
        level: as high as the curve must get.

    Returns:
        (...,) steps; infinite where the level is never reached.
    """
    curves = np.asarray(curves, dtype=float)
    above = curves >= level
    first = above.argmax(-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curves, at[..., None], -1)[..., 0] for at in (before, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(first > 0, (level - low) / (high - low), 0.0)
    crossed = steps[before] + share * (steps[first] - steps[before])
    return np.where(above.any(-1), crossed, np.inf)


def power_law(steps: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The power law a tᵇ that fits curves best, by least squares of logarithms.

    Args:
        steps: (points,); those at 0 are left out, and so are points that are not above 0.
        curves: (..., points).

    Returns:
        Factors a and exponents b, each (...,); b is below 0 for what fades. Not a number with fewer than two points.
    """
    curves = np.asarray(curves, dtype=float)
    there = (steps > 0) & (curves > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(there, np.log(np.where(steps > 0, steps, 1.0)), 0.0)
        y = np.where(there, np.log(np.where(there, curves, 1.0)), 0.0)
        count = there.sum(-1)
        mean_x, mean_y = x.sum(-1) / count, y.sum(-1) / count
        centred = np.where(there, x - mean_x[..., None], 0.0)
        exponent = np.where(count > 1, (centred * y).sum(-1) / (centred * centred).sum(-1), np.nan)
    return np.exp(mean_y - exponent * mean_x), exponent


def plateau(
    steps: np.ndarray, losses: np.ndarray, no_knowledge: np.ndarray, *, margin: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """How many steps the loss stays where it is for who knows the values but not whose they are, and when it leaves.

    From the first step at which it is at most a margin above that loss to the first at which it is as much below (the
    plateau of Zucchet et al. 2025, made countable).

    Args:
        steps: (points,), rising.
        losses: (..., points), of values, in nats.
        no_knowledge: (...,), the loss of who knows how often each value is stated, in nats.
        margin: share of that loss.

    Returns:
        Lengths and ends, (...,) steps; infinite where the plateau does not end.
    """
    relative = np.asarray(losses) / np.asarray(no_knowledge)[..., None]
    begins, ends = (steps_to(steps, -relative, -level) for level in (1 + margin, 1 - margin))
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(ends), ends - begins, np.inf), ends
