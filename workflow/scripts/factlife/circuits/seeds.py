"""Circuits of one relation compared between seeds of a model.

Head indices have no common meaning across seeds, so heads of a layer are pooled. The comparison counts a circuit's edges
from each layer's heads or MLP to each layer's queries, keys, values, MLP or logits.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd


def count_connections(circuit: dict[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """Number of edges by connection between layers, in a circuit in MIB's format and in the full model."""
    in_circuit: Counter[str] = Counter()
    in_model: Counter[str] = Counter()
    for edge, values in circuit["edges"].items():
        name = re.sub(r"\.h\d+", "", edge)
        in_model[name] += 1
        in_circuit[name] += values["in_graph"]
    return in_circuit, in_model


def weighted_jaccard(first: Counter, second: Counter) -> float:
    """Σ min / Σ max of two circuits' edge counts by connection; 1 if equal, 0 if they share no connection."""
    names = first.keys() | second.keys()
    union = sum(max(first[name], second[name]) for name in names)
    return sum(min(first[name], second[name]) for name in names) / union if union else 1.0


def compare_seeds(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Overlap of the circuits of the same model, relation and method, for each pair of seeds.

    Args:
        paths: circuit files ``{model}/seed-{seed}/{relation}.{method}.json``; circuits of nodes are skipped.

    Returns:
        Rows of ``circuits.csv`` with metric ``jaccard_by_layer`` and the other seed in ``evaluated_on``; with ``control``
        *random*, the overlap of the first circuit with the second's number of edges spread evenly over the model.
    """
    counts: dict[tuple[str, str], dict[int, tuple[Counter, Counter]]] = {}
    settings = {}
    for path in map(Path, paths):
        circuit = json.loads(path.read_text())
        if circuit["edges"]:
            key = path.parent.parent.name, path.name
            counts.setdefault(key, {})[int(path.parent.name.removeprefix("seed-"))] = count_connections(circuit)
            settings[key] = {name: circuit["factlife"][name] for name in ("relation", "method", "fraction")}
    rows = []
    for key, counts_by_seed in counts.items():
        for (seed, (first, in_model)), (other_seed, (second, _)) in itertools.combinations(
            sorted(counts_by_seed.items()), 2
        ):
            fraction = second.total() / in_model.total()
            spread_evenly = Counter({name: fraction * count for name, count in in_model.items()})
            for control, reference in (("", second), ("random", spread_evenly)):
                rows.append(
                    {"model": key[0], "seed": seed, **settings[key], "metric": "jaccard_by_layer", "n": 1,
                     "estimate": weighted_jaccard(first, reference), "evaluated_on": f"seed-{other_seed}", "control": control}
                )  # fmt: skip
    return pd.DataFrame(rows)


def write_circuits(
    circuits: Mapping[tuple[str, str], Mapping[str, Any]], path: str | Path, *, provenance: Mapping[str, Any]
) -> None:
    """Write the circuits of all relations and methods to one file."""
    entries = [
        {"relation": relation, "method": method, "circuit": {**circuit, "provenance": provenance}}
        for (relation, method), circuit in circuits.items()
    ]
    Path(path).write_text(json.dumps(entries, default=str), encoding="utf-8")


def export_circuit(source: str | Path, path: str | Path, *, relation: str, method: str, **_: str) -> None:
    """Write one circuit as a file of its own, in MIB's format.

    Args:
        source: file that ``write_circuits`` wrote.
        path: file to write.
        relation: the circuit's relation.
        method: the circuit's method.

    Raises:
        ValueError: no such circuit was discovered.
    """
    entries = json.loads(Path(source).read_text(encoding="utf-8"))
    circuits = {(entry["relation"], entry["method"]): entry["circuit"] for entry in entries}
    if (relation, method) not in circuits:
        names = ", ".join(".".join(names) for names in circuits)
        raise ValueError(f"there is no circuit of relation `{relation}` and method `{method}`; there are {names}")
    Path(path).write_text(json.dumps(circuits[relation, method]), encoding="utf-8")
