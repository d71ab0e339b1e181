"""Collapse: what models forget when each generation trains on text of the previous one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factlife.collapse.analysis import compare_with_controls, synthetic_fraction_sweeps
from factlife.collapse.summary import GenerationKey, summarise_generations, summarise_tasks
from factlife.config import parse
from factlife.config.collapse import CollapseArm


def parse_arms(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, CollapseArm]]:
    """Settings of the arms of each model, from the config's mappings."""
    return {
        model: {name: parse(CollapseArm, arm) for name, arm in of_model.items()} for model, of_model in arms.items()
    }


def generation_folders(keys: Sequence[Sequence[Any]], paths: Sequence[str]) -> dict[GenerationKey, Path]:
    """The folder of every generation, by model, arm, seed and generation."""
    return {GenerationKey(*key): Path(path) for key, path in zip(keys, paths, strict=True)}


__all__ = [
    "GenerationKey",
    "compare_with_controls",
    "generation_folders",
    "parse_arms",
    "summarise_generations",
    "summarise_tasks",
    "synthetic_fraction_sweeps",
]
