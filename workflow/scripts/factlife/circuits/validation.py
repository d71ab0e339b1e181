"""Validation: faithfulness of circuits on subjects unused in discovery, compared with random circuits."""

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
    """Outcomes of circuits on pairs.

    Attributes:
        differences: logit differences, (circuit, pair).
        hits: whether the answer is the most probable token, (circuit, pair).
        full: logit differences of the full model, (pair,).
        empty: logit differences of the empty circuit, which equals the corrupted run, (pair,).
        subjects: subject of each pair, (pair,).
    """

    differences: np.ndarray
    hits: np.ndarray
    full: np.ndarray
    empty: np.ndarray
    subjects: np.ndarray

    @property
    def faithfulness(self) -> np.ndarray:
        """Faithfulness of each circuit: (m(C) − m(∅)) / (m(M) − m(∅)), m the mean logit difference (Mueller et al. 2025, MIB)."""
        return (self.differences.mean(1) - self.empty.mean()) / (self.full.mean() - self.empty.mean())

    def resampled(self, resamples: int) -> np.ndarray:
        """Faithfulness of each circuit in bootstrap resamples of subjects, (resample, circuit)."""
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
    outcomes = (
        torch.cat([evaluate_circuits(edges, batch, masks, batch_tokens=batch_tokens) for batch in batches], 1)
        .double()
        .numpy()
    )
    return CircuitRuns(
        outcomes[2:, :, 0],
        outcomes[2:, :, 1],
        outcomes[0, :, 0],
        outcomes[1, :, 0],
        np.array([subject for batch in batches for subject in batch.subjects]),
    )


def percentile_interval(n: int, estimate: float | np.ndarray, resampled: np.ndarray) -> Interval:
    """Estimate with the percentile interval of its resamples."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(np.array([n]), np.array([estimate]), np.array([low]), np.array([high]))


def cpr_and_cmd(fractions: Sequence[float], faithfulness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CPR and CMD: areas under f and |1 − f| over the fraction of edges, for curves (…, fraction) (MIB, part 3)."""
    return np.trapezoid(faithfulness, fractions, axis=-1), np.trapezoid(np.abs(1 - faithfulness), fractions, axis=-1)


def sample_random_circuits(graph: ComputationGraph, circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """Random circuits with the same number of edges of each kind (input, head or MLP to query, key, value, MLP or logits)."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.where(graph.edges, graph.kinds(), -1).flatten()
    circuits = []
    for _ in range(count):
        mask = torch.zeros(kinds.numel(), dtype=torch.bool)
        for kind in kinds[circuit.flatten()].unique():
            candidates = (kinds == kind).nonzero()[:, 0]
            n_edges = int((kinds[circuit.flatten()] == kind).sum())
            mask[candidates[torch.randperm(len(candidates), generator=generator)[:n_edges]]] = True
        circuits.append(mask.view(graph.edges.shape))
    return circuits


def sample_connected_circuits(graph: ComputationGraph, max_edges: int, count: int, seed: int) -> list[Tensor]:
    """Random circuits whose edges all lie on paths: ``select_circuit`` with random scores."""
    generator = torch.Generator().manual_seed(seed)
    return [select_circuit(graph, torch.rand(graph.edges.shape, generator=generator), max_edges) for _ in range(count)]


def remove_single_edges(circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """Circuits without one edge, for a random sample of edges of the circuit."""
    return [_with_edge(circuit, edge, False) for edge in _sample_edges(circuit, count, seed)]


def add_single_edges(graph: ComputationGraph, circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """Circuits with one extra edge, for a random sample of edges outside the circuit."""
    return [_with_edge(circuit, edge, True) for edge in _sample_edges(graph.edges & ~circuit, count, seed)]


def _sample_edges(mask: Tensor, count: int, seed: int) -> Tensor:
    edges = mask.nonzero()
    return edges[torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed))[:count]]


def _with_edge(circuit: Tensor, edge: Tensor, value: bool) -> Tensor:
    changed = circuit.clone()
    changed[tuple(edge)] = value
    return changed


def sample_subsets(circuit: Tensor, count: int, seed: int) -> list[Tensor]:
    """Random subsets K of a circuit's edges, half of the edges on average (Wang et al. 2023, part 4.1)."""
    generator = torch.Generator().manual_seed(seed)
    return [circuit & (torch.rand(circuit.shape, generator=generator) < 0.5) for _ in range(count)]


def minimality(full_faithfulness: float, ablated: np.ndarray, inflated: np.ndarray) -> float:
    """Fraction of a circuit's edges that matter more than a random extra edge.

    An edge matters by the decrease of f without it; the threshold is the 95th percentile of the change of f that a
    random extra edge causes (Shi et al. 2024, part 3.3).
    """
    if not len(inflated):
        return float("nan")
    return float(((full_faithfulness - ablated) > np.quantile(np.abs(inflated - full_faithfulness), 0.95)).mean())


def bootstrap_stability(
    graph: ComputationGraph, scores: Tensor, subjects: Sequence[str], max_edges: int, resamples: int
) -> np.ndarray:
    """Jaccard overlap of two circuits discovered on bootstrap resamples of subjects, (resamples // 2,).

    Args:
        graph: the model's graph.
        scores: scores of edges, (pair, writer, reader).
        subjects: subject of each pair.
        max_edges: maximum number of edges in each circuit.
        resamples: number of circuits to discover.
    """
    codes, names = pd.factorize(np.asarray(subjects))
    draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    flat = scores.flatten(1).double()
    circuits = [
        select_circuit(graph, (torch.from_numpy(draw[codes]).double() @ flat).view(scores.shape[1:]), max_edges)
        for draw in draws
    ]
    return np.array([jaccard(first, second) for first, second in zip(circuits[::2], circuits[1::2], strict=False)])
