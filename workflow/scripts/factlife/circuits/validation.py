"""Validation: how much of an answer a circuit keeps on subjects that it was not found on, and what chance would keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from factlife.circuits.attribution import CircuitModel, PromptPairs, evaluate_circuits
from factlife.circuits.edges import ComputationGraph
from factlife.circuits.selection import jaccard, select_circuit
from factlife.stats import LEVEL, Interval


@dataclass(frozen=True)
class CircuitRuns:
    """Runs of circuits on pairs.

    Attributes:
        differences: logit differences, (circuit, pair).
        hits: whether the answer is the most probable token, (circuit, pair).
        full: logit differences of the whole model, (pair,).
        empty: of the corrupted run, in which no edge is intact, (pair,).
        subjects: of the pairs, (pair,).
    """

    differences: np.ndarray
    hits: np.ndarray
    full: np.ndarray
    empty: np.ndarray
    subjects: np.ndarray

    @property
    def faithfulness(self) -> np.ndarray:
        """F of each circuit: (m(C) − m(∅)) / (m(M) − m(∅)), m the mean logit difference (Mueller et al. 2025, MIB)."""
        return (self.differences.mean(1) - self.empty.mean()) / (self.full.mean() - self.empty.mean())

    def resampled(self, resamples: int) -> np.ndarray:
        """F of each circuit in bootstrap resamples of subjects, (resample, circuit)."""
        codes, names = pd.factorize(self.subjects)
        draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        weights = draws[:, codes]
        return (weights @ (self.differences - self.empty).T) / (weights @ (self.full - self.empty))[:, None]


def run_circuits(
    edges: CircuitModel, batches: Sequence[PromptPairs], circuits: Sequence[Tensor], *, batch_tokens: int = 4096
) -> CircuitRuns:
    """Run circuits, each (writer, reader), on pairs."""
    full = edges.graph.edges
    masks = torch.stack([full, torch.zeros_like(full), *circuits]).float()
    found = (
        torch.cat([evaluate_circuits(edges, batch, masks, batch_tokens=batch_tokens) for batch in batches], 1)
        .double()
        .numpy()
    )
    return CircuitRuns(
        found[2:, :, 0],
        found[2:, :, 1],
        found[0, :, 0],
        found[1, :, 0],
        np.array([subject for batch in batches for subject in batch.subjects]),
    )


def percentile_interval(n: int, estimate: float, resampled: np.ndarray) -> Interval:
    """An estimate with the percentile interval of its resamples."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(np.array([n]), np.array([estimate]), np.array([low]), np.array([high]))


def cpr_and_cmd(shares: Sequence[float], faithfulness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CPR and CMD: areas under f and under |1 − f| over the share of edges, of curves (…, share) (MIB, part 3)."""
    return np.trapezoid(faithfulness, shares, axis=-1), np.trapezoid(np.abs(1 - faithfulness), shares, axis=-1)


def sample_random_circuits(graph: ComputationGraph, circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """Circuits with as many edges of each kind (from input, head or MLP to query, key, value, MLP or logits)."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.where(graph.edges, graph.kinds(), -1).flatten()
    found = []
    for _ in range(count):
        drawn = torch.zeros(kinds.numel(), dtype=torch.bool)
        for kind in kinds[circuit.flatten()].unique():
            there = (kinds == kind).nonzero()[:, 0]
            wanted = int((kinds[circuit.flatten()] == kind).sum())
            drawn[there[torch.randperm(len(there), generator=generator)[:wanted]]] = True
        found.append(drawn.view(graph.edges.shape))
    return found


def sample_connected_circuits(graph: ComputationGraph, budget: int, count: int, seed: int) -> list[Tensor]:
    """Circuits of edges that all lie on paths, chosen as ``select`` does, by scores drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return [select_circuit(graph, torch.rand(graph.edges.shape, generator=generator), budget) for _ in range(count)]


def remove_single_edges(circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """The circuit less one of its edges, for some of them drawn at random."""
    return [_changed(circuit, edge, False) for edge in _draw(circuit, count, seed)]


def add_single_edges(graph: ComputationGraph, circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """The circuit and one edge that it lacks, for some of them drawn at random."""
    return [_changed(circuit, edge, True) for edge in _draw(graph.edges & ~circuit, count, seed)]


def _draw(where: Tensor, count: int, seed: int) -> Tensor:
    edges = where.nonzero()
    return edges[torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed))[:count]]


def _changed(circuit: Tensor, edge: Tensor, to: bool) -> Tensor:
    changed = circuit.clone()
    changed[tuple(edge)] = to
    return changed


def sample_subsets(circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """Random subsets K of a circuit's edges, half of them on average (Wang et al. 2023, part 4.1)."""
    generator = torch.Generator().manual_seed(seed)
    return [circuit & (torch.rand(circuit.shape, generator=generator) < 0.5) for _ in range(count)]


def minimality(whole: float, without: np.ndarray, inflated: np.ndarray) -> float:
    """Share of a circuit's edges that matter more than an edge that was put in at random does.

    An edge matters by what f loses without it; the bar is the 95th percentile of what a random extra edge changes (Shi
    et al. 2024, part 3.3).
    """
    if not len(inflated):
        return float("nan")
    return float(((whole - without) > np.quantile(np.abs(inflated - whole), 0.95)).mean())


def bootstrap_stability(
    graph: ComputationGraph, scores: Tensor, subjects: Sequence[str], budget: int, resamples: int
) -> np.ndarray:
    """Jaccard of circuits found on bootstrap resamples of subjects, in pairs: (resamples // 2,).

    Args:
        graph: of the model.
        scores: (pair, writer, reader).
        subjects: of the pairs.
        budget: edges of the circuits.
        resamples: how many circuits are found.
    """
    codes, names = pd.factorize(np.asarray(subjects))
    draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    flat = scores.flatten(1).double()
    found = [
        select_circuit(graph, (torch.from_numpy(draw[codes]).double() @ flat).view(scores.shape[1:]), budget)
        for draw in draws
    ]
    return np.array([jaccard(one, other) for one, other in zip(found[::2], found[1::2], strict=False)])
