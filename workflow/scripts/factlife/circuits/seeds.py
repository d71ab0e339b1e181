"""Circuits of one relation in models that differ in their seed.

Heads have no numbers that two seeds share, so heads of a layer are taken together: what is compared is how many edges a
circuit has from each layer's heads or MLP to each layer's queries, keys, values, MLP or logits.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd


def count_connections(circuit: dict[str, Any]) -> tuple[Counter, Counter]:
    """Edges of a circuit in MIB's format by connection between layers, and of the whole model."""
    inside, every = Counter(), Counter()
    for edge, values in circuit["edges"].items():
        name = re.sub(r"\.h\d+", "", edge)
        every[name] += 1
        inside[name] += values["in_graph"]
    return inside, every


def weighted_jaccard(one: Counter, other: Counter) -> float:
    """Σ min / Σ max of two circuits' edges by connection; 1 for the same, 0 where they share no connection."""
    names = one.keys() | other.keys()
    most = sum(max(one[name], other[name]) for name in names)
    return sum(min(one[name], other[name]) for name in names) / most if most else 1.0


def compare_seeds(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Overlap of circuits of the same model, relation and method in every two seeds.

    Args:
        paths: of circuits, ``{model}/seed-{seed}/{relation}.{method}.json``; circuits of nodes are left out.

    Returns:
        Rows of ``circuits.csv`` with metric ``jaccard_by_layer`` and ``evaluated_on`` the other seed; with ``control`` *random*,
        that of the first circuit with as many edges spread evenly over the model's.
    """
    found: dict[tuple[str, str], dict[int, tuple[Counter, Counter]]] = {}
    about = {}
    for path in map(Path, paths):
        circuit = json.loads(path.read_text())
        if circuit["edges"]:
            key = path.parent.parent.name, path.name
            found.setdefault(key, {})[int(path.parent.name.removeprefix("seed-"))] = count_connections(circuit)
            about[key] = {name: circuit["factlife"][name] for name in ("relation", "method", "fraction")}
    rows = []
    for key, by_seed in found.items():
        for (seed, (one, every)), (other, (theirs, _)) in itertools.combinations(sorted(by_seed.items()), 2):
            share = theirs.total() / every.total()
            even = Counter({name: share * count for name, count in every.items()})
            for control, counts in (("", theirs), ("random", even)):
                rows.append(
                    {"model": key[0], "seed": seed, **about[key], "metric": "jaccard_by_layer", "n": 1,
                     "estimate": weighted_jaccard(one, counts), "evaluated_on": f"seed-{other}", "control": control}
                )  # fmt: skip
    return pd.DataFrame(rows)
