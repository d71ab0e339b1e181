"""What can go wrong in ranking documents."""

from __future__ import annotations


class InfluenceError(ValueError):
    """Documents cannot be ranked or judged; the text says what to change."""
