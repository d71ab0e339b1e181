"""Selection of circuits from edge scores, and MIB's file format for circuits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from factlife.circuits.edges import CircuitError, ComputationGraph

# Fractions of edges at which MIB evaluates circuits, and extra ones where circuits differ most.
MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
EXTRA_FRACTIONS = (0.03, 0.04, 0.06, 0.07, 0.08, 0.09, 0.11, 0.12, 0.13, 0.14, 0.16, 0.17, 0.18, 0.19, 0.25, 0.3, 0.4)


def connected_edges(graph: ComputationGraph, circuit: Tensor) -> Tensor:
    """Edges of a circuit, (writer, reader), on a path from the input to the logits; circuits of nodes are unchanged."""
    if len(graph.readers) == 1:
        return circuit
    feeds = graph.feeds().numpy()
    edges = circuit.numpy()
    # Writers are in execution order, so one forward and one backward pass suffice.
    reached = np.zeros(len(graph.writers), dtype=bool)
    reached[0] = True
    order = [(reader, np.flatnonzero(feeds[reader])) for reader in range(len(graph.readers))]
    for reader, writers in order:
        if reached[edges[:, reader]].any():
            reached[writers] = True
    used = np.zeros(len(graph.readers), dtype=bool)
    used[-1] = True
    for reader, writers in reversed(order[:-1]):
        used[reader] = edges[writers][:, used].any()
    return torch.from_numpy(edges & reached[:, None] & used[None])


def select_circuit(graph: ComputationGraph, scores: Tensor, max_edges: int) -> Tensor:
    """Circuit, (writer, reader), of the at most ``max_edges`` strongest edges that lie on paths.

    Edges are ranked by absolute score. Edges on no path from the input to the logits have no effect, so they are dropped
    and do not count.
    """
    order = torch.where(graph.edges, scores.abs(), -1.0).flatten().argsort(descending=True, stable=True)
    low, high = 0, int(graph.edges.sum())

    def strongest(count: int) -> Tensor:
        mask = torch.zeros(graph.edges.numel(), dtype=torch.bool)
        mask[order[:count]] = True
        return connected_edges(graph, mask.view(graph.edges.shape))

    # The number of edges on paths never falls as edges are added.
    while low < high:
        middle = (low + high + 1) // 2
        if strongest(middle).sum() <= max_edges:
            low = middle
        else:
            high = middle - 1
    return strongest(low)


def edge_count(graph: ComputationGraph, fraction: float) -> int:
    """Number of edges in a fraction of all edges."""
    return round(fraction * int(graph.edges.sum()))


def jaccard(first: Tensor, second: Tensor) -> float:
    """Edges in both circuits over edges in either; 1 for two empty circuits."""
    either = (first | second).sum().item()
    return (first & second).sum().item() / either if either else 1.0


def edge_entropy(scores: Tensor) -> float:
    """Entropy of normalised absolute edge scores, in nats."""
    fractions = scores.abs().flatten() / scores.abs().sum()
    return torch.special.entr(fractions).sum().item()


def export_circuit(
    graph: ComputationGraph, scores: Tensor, circuit: Tensor, *, d_model: int, parallel: bool
) -> dict[str, Any]:
    """A circuit in MIB's format; shared keys and values are written once per query head.

    A circuit of nodes has no edges; its nodes have the scores.
    """
    cfg = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": parallel, "d_model": d_model}
    if len(graph.readers) == 1:
        ends = {"input": {"in_graph": True}, "logits": {"in_graph": True}}
        components = {
            name: {"score": float(scores[row, 0]), "in_graph": bool(circuit[row, 0])}
            for row, name in enumerate(graph.writers)
            if row
        }
        return {"cfg": cfg, "nodes": ends | components, "edges": {}}
    group = graph.n_heads // graph.n_kv_heads
    node_in_circuit = circuit.any(1)
    nodes = {name: {"in_graph": bool(node_in_circuit[row])} for row, name in enumerate(graph.writers)}
    nodes["logits"] = {"in_graph": bool(circuit[:, -1].any())}
    edges = {}
    for column, reader in enumerate(graph.readers):
        names = [reader]
        if reader.endswith(("<k>", "<v>")):
            layer, head = reader[:-3].split(".h")
            names = [f"{layer}.h{int(head) * group + i}{reader[-3:]}" for i in range(group)]
        for row in torch.nonzero(graph.edges[:, column]).flatten().tolist():
            for name in names:
                edges[f"{graph.writers[row]}->{name}"] = {
                    "score": float(scores[row, column]),
                    "in_graph": bool(circuit[row, column]),
                }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def read_circuit(graph: ComputationGraph, data: Mapping[str, Any]) -> Tensor:
    """Circuit, (writer, reader), from the data of a file in MIB's format, the inverse of ``export_circuit``.

    Where heads share keys and values, an edge to one of them counts for all.

    Raises:
        CircuitError: the circuit belongs to a model of another size, or has nodes where edges are expected or vice versa.
    """
    circuit = torch.zeros(graph.edges.shape, dtype=torch.bool)
    nodes = len(graph.readers) == 1
    if nodes != (not data["edges"]):
        raise CircuitError(f"the circuit has {'' if data['edges'] else 'no '}edges; set circuits.level accordingly")
    rows = {name: row for row, name in enumerate(graph.writers)}
    columns = {name: column for column, name in enumerate(graph.readers)}
    group = graph.n_heads // graph.n_kv_heads

    def column(reader: str) -> int:
        if reader.endswith(("<k>", "<v>")):
            layer, head = reader[:-3].split(".h")
            reader = f"{layer}.h{int(head) // group}{reader[-3:]}"
        return columns[reader]

    inner = {name: entry for name, entry in data["nodes"].items() if name not in ("input", "logits")}
    try:
        for name, entry in (inner if nodes else data["edges"]).items():
            writer, _, reader = name.partition("->")
            in_graph = entry["in_graph"] if isinstance(entry, Mapping) else entry
            circuit[rows[writer], 0 if nodes else column(reader)] |= bool(in_graph)
    except KeyError as error:
        raise CircuitError(
            f"the circuit contains {error.args[0]}, which the model does not have: it belongs to another model"
        ) from None
    return circuit


class CircuitAgreement(NamedTuple):
    """Agreement of a discovered circuit with a known one.

    Attributes:
        precision: fraction of discovered components that are known.
        recall: fraction of known components that are discovered.
        jaccard: components in both over components in either.
        chance_precision: expected precision of the same number of random components.
        p: probability that random components agree as well or better (hypergeometric).
    """

    precision: float
    recall: float
    jaccard: float
    chance_precision: float
    p: float


def compare_circuits(discovered: Tensor, reference: Tensor, existing: Tensor) -> CircuitAgreement:
    """Compare two sets of components, as boolean masks; ``existing`` masks the components of the model."""
    n_both, n_discovered, n_known, n_existing = (
        int(mask.sum()) for mask in (discovered & reference, discovered, reference, existing)
    )
    return CircuitAgreement(
        n_both / n_discovered if n_discovered else float("nan"),
        n_both / n_known if n_known else float("nan"),
        jaccard(discovered, reference),
        n_known / n_existing,
        float(stats.hypergeom.sf(n_both - 1, n_existing, n_known, n_discovered)),
    )


def circuit_components(graph: ComputationGraph, circuit: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Edges, and heads and MLPs of a circuit, each with those of the model; circuits of nodes have no edges."""
    heads_and_mlps = circuit.any(1)[1:]
    components = {"node": (heads_and_mlps, torch.ones_like(heads_and_mlps))}
    return components if len(graph.readers) == 1 else {"edge": (circuit, graph.edges)} | components
