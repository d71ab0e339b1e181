"""Checkpoints, exposures and size of the model in a folder."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pandas as pd
from safetensors import safe_open

from factlife.world.tables import read_table

_LINKED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


def list_checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint, in order. A model that was not trained here has one checkpoint, at step 0."""
    folder = Path(folder)
    checkpoints = sorted((int(path.name.removeprefix("step-")), path) for path in folder.glob("checkpoints/step-*"))
    return checkpoints or [(0, folder)]


def read_exposures(folder: str | Path) -> pd.DataFrame:
    """How often each fact had been stated at each checkpoint: ``step, fact_id, exposures``; empty if unknown."""
    path = Path(folder) / "exposures.parquet"
    return read_table(path) if path.exists() else pd.DataFrame({"step": [], "fact_id": [], "exposures": []}).astype(int)


def read_final_exposures(folder: str | Path) -> pd.Series:
    """How often each fact was stated in all of training, by fact; empty if unknown."""
    table = read_exposures(folder)
    return table[table["step"] == table["step"].max()].set_index("fact_id")["exposures"]


def count_parameters(folder: str | Path) -> int:
    """Number of parameters; tied weights count once."""
    count = 0
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def token_budget(folder: str | Path, batch_tokens: int | None) -> int:
    """Tokens in a forward pass: the setting where there is one, else a number that fits the size of the model.

    Up to 30 million parameters, 8192; half as many for each fourfold size beyond, but at least 256.
    """
    if batch_tokens is not None:
        return batch_tokens
    excess = max(count_parameters(folder) / 30e6, 1)
    return max(256, 8192 >> math.ceil(math.log(excess, 4)))


def link_files(source: str | Path, target: str | Path) -> None:
    """Give a model a second folder with hard links to its files, or copies where links are not possible."""
    Path(target).mkdir(parents=True)
    for path in Path(source).iterdir():
        if path.suffix in _LINKED_SUFFIXES and path.name != "manifest.json":
            try:
                os.link(path, Path(target) / path.name)
            except OSError:
                shutil.copy2(path, Path(target) / path.name)
