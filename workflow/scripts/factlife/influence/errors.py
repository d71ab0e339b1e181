"""The error of this package."""

from __future__ import annotations


class InfluenceError(ValueError):
    """Documents cannot be ranked or rankings cannot be evaluated; the message says what to change."""
