"""Collapse: what models forget when each generation trains on text of the previous one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factlife.collapse.analysis import compare_with_controls, synthetic_fraction_sweeps
from factlife.collapse.summary import summarise_generations, summarise_tasks


def generation_folders(
    generations: Sequence[tuple[str, int, int]], paths: Sequence[str]
) -> list[tuple[str, int, int, Path]]:
    """Arm, seed, generation and folder of every generation."""
    return [(*keys, Path(path)) for keys, path in zip(generations, paths, strict=True)]


__all__ = [
    "compare_with_controls",
    "generation_folders",
    "summarise_generations",
    "summarise_tasks",
    "synthetic_fraction_sweeps",
]
