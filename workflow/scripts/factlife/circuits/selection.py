"""Discovery: from scores of edges to circuits by edge budget, and the format in which circuits are exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from factlife.circuits.edges import CircuitError, ComputationGraph

# Shares of edges at which MIB evaluates circuits, and others that make the curve finer where circuits differ.
MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
EXTRA_FRACTIONS = (0.03, 0.04, 0.06, 0.07, 0.08, 0.09, 0.11, 0.12, 0.13, 0.14, 0.16, 0.17, 0.18, 0.19, 0.25, 0.3, 0.4)


def connected_edges(graph: ComputationGraph, circuit: Tensor) -> Tensor:
    """The edges of a circuit, (writer, reader), that lie on a path from the input to the logits; of nodes, all."""
    if len(graph.readers) == 1:
        return circuit
    feeds = graph.feeds().numpy()
    edges = circuit.numpy()
    # Writers come in the order in which they run, so one pass forward and one back are enough.
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


def select_circuit(graph: ComputationGraph, scores: Tensor, budget: int) -> Tensor:
    """The circuit, (writer, reader), of the strongest edges that lie on paths, as many as the budget allows.

    Edges are taken by the size of their score; those on no path from the input to the logits do nothing, so they are
    dropped and do not count.
    """
    order = torch.where(graph.edges, scores.abs(), -1.0).flatten().argsort(descending=True, stable=True)
    low, high = 0, int(graph.edges.sum())

    def taken(count: int) -> Tensor:
        chosen = torch.zeros(graph.edges.numel(), dtype=torch.bool)
        chosen[order[:count]] = True
        return connected_edges(graph, chosen.view(graph.edges.shape))

    # More edges never make fewer lie on paths.
    while low < high:
        middle = (low + high + 1) // 2
        if taken(middle).sum() <= budget:
            low = middle
        else:
            high = middle - 1
    return taken(low)


def edge_count(graph: ComputationGraph, share: float) -> int:
    """How many edges a share of all is."""
    return round(share * int(graph.edges.sum()))


def jaccard(one: Tensor, other: Tensor) -> float:
    """Edges in both circuits over edges in either; 1 for two empty ones."""
    either = (one | other).sum().item()
    return (one & other).sum().item() / either if either else 1.0


def edge_entropy(scores: Tensor) -> float:
    """Entropy of the edges' shares of all scores' size, in nats."""
    share = scores.abs().flatten() / scores.abs().sum()
    return torch.special.entr(share).sum().item()


def export_circuit(
    graph: ComputationGraph, scores: Tensor, circuit: Tensor, *, d_model: int, parallel: bool
) -> dict[str, Any]:
    """A circuit in the format of the MIB benchmark; keys and values that heads share are written for each of them.

    A circuit of nodes has no edges, and the scores at its nodes.
    """
    cfg = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": parallel, "d_model": d_model}
    if len(graph.readers) == 1:
        ends = {"input": {"in_graph": True}, "logits": {"in_graph": True}}
        inside = {
            name: {"score": float(scores[row, 0]), "in_graph": bool(circuit[row, 0])}
            for row, name in enumerate(graph.writers)
            if row
        }
        return {"cfg": cfg, "nodes": ends | inside, "edges": {}}
    group = graph.n_heads // graph.n_kv_heads
    within = circuit.any(1)
    nodes = {name: {"in_graph": bool(within[row])} for row, name in enumerate(graph.writers)}
    nodes["logits"] = {"in_graph": bool(circuit[:, -1].any())}
    edges = {}
    for column, reader in enumerate(graph.readers):
        names = [reader]
        if reader.endswith(("<k>", "<v>")):
            layer, head = reader[:-3].split(".h")
            names = [f"{layer}.h{int(head) * group + each}{reader[-3:]}" for each in range(group)]
        for row in torch.nonzero(graph.edges[:, column]).flatten().tolist():
            for name in names:
                edges[f"{graph.writers[row]}->{name}"] = {
                    "score": float(scores[row, column]),
                    "in_graph": bool(circuit[row, column]),
                }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def read_circuit(graph: ComputationGraph, told: Mapping[str, Any]) -> Tensor:
    """The circuit, (writer, reader), of a file in the format of the MIB benchmark; what ``export`` wrote comes back.

    Where heads share keys and values, an edge to one of them is an edge to all.

    Raises:
        CircuitError: it is of a model of another size, or of nodes where edges are asked for, or the other way round.
    """
    circuit = torch.zeros(graph.edges.shape, dtype=torch.bool)
    nodes = len(graph.readers) == 1
    if nodes != (not told["edges"]):
        raise CircuitError(f"the circuit has {'' if told['edges'] else 'no '}edges; set circuits.level accordingly")
    rows = {name: row for row, name in enumerate(graph.writers)}
    columns = {name: column for column, name in enumerate(graph.readers)}
    group = graph.n_heads // graph.n_kv_heads

    def column(reader: str) -> int:
        if reader.endswith(("<k>", "<v>")):
            layer, head = reader[:-3].split(".h")
            reader = f"{layer}.h{int(head) // group}{reader[-3:]}"
        return columns[reader]

    inner = {name: one for name, one in told["nodes"].items() if name not in ("input", "logits")}
    try:
        for name, one in (inner if nodes else told["edges"]).items():
            writer, _, reader = name.partition("->")
            inside = one["in_graph"] if isinstance(one, Mapping) else one
            circuit[rows[writer], 0 if nodes else column(reader)] |= bool(inside)
    except KeyError as error:
        raise CircuitError(
            f"the circuit has a part {error.args[0]}, which the model lacks: it is a circuit of another model"
        ) from None
    return circuit


class CircuitAgreement(NamedTuple):
    """How far a circuit that was found is one that is known.

    Attributes:
        precision: share of the parts found that are known.
        recall: share of the known parts that are found.
        jaccard: parts in both over parts in either.
        chance_precision: precision that as many parts drawn at random have on average.
        p: probability that parts drawn at random agree as well or better (hypergeometric).
    """

    precision: float
    recall: float
    jaccard: float
    chance_precision: float
    p: float


def compare_circuits(found: Tensor, known: Tensor, every: Tensor) -> CircuitAgreement:
    """Compare two sets of parts, all boolean of one shape; ``every`` has the parts that there are."""
    both, size, of, there = (int(each.sum()) for each in (found & known, found, known, every))
    return CircuitAgreement(
        both / size if size else float("nan"),
        both / of if of else float("nan"),
        jaccard(found, known),
        of / there,
        float(stats.hypergeom.sf(both - 1, there, of, size)),
    )


def circuit_components(graph: ComputationGraph, circuit: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """A circuit's edges, and its heads and MLPs; each with all that there are. Of a circuit of nodes, only the latter."""
    heads_and_mlps = circuit.any(1)[1:]
    found = {"node": (heads_and_mlps, torch.ones_like(heads_and_mlps))}
    return found if len(graph.readers) == 1 else {"edge": (circuit, graph.edges)} | found
