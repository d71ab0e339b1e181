"""Tables of sparse autoencoders and transcoders; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

SAE_KEYS = ["model", "seed", "site", "layer", "architecture"]
_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]


def saes(paths: Iterable[str | Path]) -> pd.DataFrame:
    """All coders' metrics, from files ``…/{model}/seed-{seed}/{sae}.quality.csv``; column ``sae`` names the coder."""
    tables = [
        pd.read_csv(path, dtype={"layer": str}).assign(
            model=Path(path).parts[-3],
            seed=int(Path(path).parts[-2].removeprefix("seed-")),
            sae=Path(path).name.split(".")[0],
        )
        for path in paths
    ]
    return pd.concat(tables, ignore_index=True)[[*SAE_KEYS, *_TIDY, "sae", "k"]]
