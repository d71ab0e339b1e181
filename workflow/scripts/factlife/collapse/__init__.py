"""Collapse: what generations of models lose that learn from text of the ones before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factlife.collapse.analysis import analyse, families
from factlife.collapse.summary import summarise, summarise_tests


def folders(chain: Sequence[tuple[str, int, int]], paths: Sequence[str]) -> list[tuple[str, int, int, Path]]:
    """Arm, seed, generation and folder of every generation."""
    return [(*keys, Path(path)) for keys, path in zip(chain, paths, strict=True)]


__all__ = ["analyse", "families", "folders", "summarise", "summarise_tests"]
