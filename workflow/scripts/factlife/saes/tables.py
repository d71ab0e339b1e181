"""Tables of sparse autoencoders and transcoders; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

DICTIONARY_KEYS = ["model", "seed", "site", "layer", "architecture"]
_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]


def summarise_dictionaries(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Metrics of all dictionaries, from files ``…/{model}/seed-{seed}/{dictionary}.quality.csv``."""
    tables = [
        pd.read_csv(path, dtype={"layer": str}).assign(
            model=Path(path).parts[-3],
            seed=int(Path(path).parts[-2].removeprefix("seed-")),
            dictionary=Path(path).name.split(".")[0],
        )
        for path in paths
    ]
    return pd.concat(tables, ignore_index=True)[[*DICTIONARY_KEYS, *_TIDY, "dictionary", "k"]]
