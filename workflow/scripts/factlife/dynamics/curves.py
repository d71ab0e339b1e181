"""Numbers that describe a curve: when it crosses a level, how fast it decays, how long it stays flat.

All functions take curves in their last axis and handle thousands of resampled curves at once.
"""

from __future__ import annotations

import numpy as np


def steps_to_level(steps: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """The first step at which curves reach a level, by linear interpolation between checkpoints.

    Args:
        steps: (points,), increasing.
        curves: (..., points).
        level: the level to reach.

    Returns:
        (...,) steps; infinite if a curve never reaches the level.
    """
    curves = np.asarray(curves, dtype=float)
    reached = curves >= level
    first = reached.argmax(-1)
    previous = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curves, i[..., None], -1)[..., 0] for i in (previous, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = np.where(first > 0, (level - low) / (high - low), 0.0)
    crossing = steps[previous] + fraction * (steps[first] - steps[previous])
    return np.where(reached.any(-1), crossing, np.inf)


def power_law(steps: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The power law a tᵇ that fits curves best, by least squares of logarithms.

    Args:
        steps: (points,); step 0 is left out, and so are points that are not positive.
        curves: (..., points).

    Returns:
        Factors a and exponents b, each (...,); b is negative for a decaying curve. NaN for fewer than two points.
    """
    curves = np.asarray(curves, dtype=float)
    is_used = (steps > 0) & (curves > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(is_used, np.log(np.where(steps > 0, steps, 1.0)), 0.0)
        y = np.where(is_used, np.log(np.where(is_used, curves, 1.0)), 0.0)
        count = is_used.sum(-1)
        mean_x, mean_y = x.sum(-1) / count, y.sum(-1) / count
        centred = np.where(is_used, x - mean_x[..., None], 0.0)
        exponent = np.where(count > 1, (centred * y).sum(-1) / (centred * centred).sum(-1), np.nan)
    return np.exp(mean_y - exponent * mean_x), exponent


def plateau(
    steps: np.ndarray, losses: np.ndarray, no_knowledge: np.ndarray, *, margin: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Length and end of the plateau at the no-knowledge loss (Zucchet et al. 2025).

    At the no-knowledge loss a model knows the distribution of values but not which subject has which value. The plateau
    lasts from the first step at which the loss is at most a margin above this loss to the first step at which it is a
    margin below.

    Args:
        steps: (points,), increasing.
        losses: (..., points), loss of the values, in nats.
        no_knowledge: (...,), the no-knowledge loss, in nats.
        margin: fraction of the no-knowledge loss.

    Returns:
        Lengths and ends, (...,) steps; infinite if the plateau does not end.
    """
    relative_loss = np.asarray(losses) / np.asarray(no_knowledge)[..., None]
    starts, ends = (steps_to_level(steps, -relative_loss, -level) for level in (1 + margin, 1 - margin))
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(ends), ends - starts, np.inf), ends
