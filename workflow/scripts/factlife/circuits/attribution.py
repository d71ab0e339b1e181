"""Edge attribution: the effect of each edge on an answer, from gradients or by patching one edge at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from factlife.circuits.edges import ComputationGraph, frozen_parameters, logit_difference
from factlife.models.anatomy import Anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CircuitModel(Protocol):
    """A model that can be patched at its edges or nodes: an ``EdgeModel`` or a ``NodeModel``."""

    model: PreTrainedModel
    parts: Anatomy
    graph: ComputationGraph

    def __init__(self, model: PreTrainedModel) -> None: ...

    def record(self, inputs: Tensor) -> Any:
        """States of an unpatched run."""

    def run(self, inputs: Tensor, base: Any, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of circuits, and tensors whose gradients give the effects."""

    def effects(self, clean: Any, base: Any, gradients: Sequence[Tensor]) -> Tensor:
        """(clean − corrupted) · gradient of each edge or node."""


@dataclass(frozen=True)
class PromptPairs:
    """Pairs of prompts of equal length.

    Attributes:
        clean: embeddings of the clean prompts, (pair, position, d_model).
        corrupted: embeddings of the corrupted prompts, same shape.
        answers: tokens of the correct and of the other answer, (pair, 2).
        subjects: entity id of each pair's subject.
    """

    clean: Tensor
    corrupted: Tensor
    answers: Tensor
    subjects: list[str]


STEPS = (5, 10, 20, 50, 100)
GAP = 0.05


@dataclass(frozen=True)
class EdgeScores:
    """Scores of edges.

    Attributes:
        scores: contribution of each edge's clean value to the logit difference, (pair, writer, reader).
        gap: fraction of the logit difference that the integration does not account for, (pair,).
        steps: number of integration steps.
    """

    scores: Tensor
    gap: Tensor
    steps: int

    @property
    def gap_90(self) -> float:
        """90th percentile of the gap over pairs."""
        return self.gap.quantile(0.9).item()


def eap(edges: CircuitModel, batches: Sequence[PromptPairs]) -> EdgeScores:
    """Edge attribution patching: (clean − corrupted) · gradient in the clean run (Syed et al. 2023, eq. 1)."""
    return _joined([_along(edges, batch, [1.0]) for batch in batches], 1)


def eap_ig(
    edges: CircuitModel, batches: Sequence[PromptPairs], *, gap: float = GAP, steps: Sequence[int] = STEPS
) -> EdgeScores:
    """Edge attribution patching with integrated gradients (Hanna et al. 2024, eq. 3), by the midpoint rule.

    The gradient is averaged over inputs on the line from the corrupted to the clean embeddings. The scores of edges out
    of the input then add up to the change of the logit difference, up to the integration error. Steps increase until the
    90th percentile of this error over pairs is at most ``gap``.
    """
    for n_steps in steps:
        points = [(i + 0.5) / n_steps for i in range(n_steps)]
        result = _joined([_along(edges, batch, points) for batch in batches], n_steps)
        if result.gap_90 <= gap:
            return result
    if len(steps) > 1:  # controls fix the number of steps and accept any gap
        logging.warning("the integration gap is %.3f at %d steps, above %.3f", result.gap_90, n_steps, gap)
    return result


def exact_patching(edges: CircuitModel, batches: Sequence[PromptPairs], *, batch_tokens: int = 4096) -> EdgeScores:
    """Exact edge patching: decrease of the logit difference when one edge is corrupted.

    It takes one run per edge and pair.
    """
    edge_indices = edges.graph.edges.nonzero()
    full = edges.graph.edges.float()
    results = []
    for batch in batches:
        masks = full.repeat(len(edge_indices), 1, 1)
        masks[torch.arange(len(edge_indices)), edge_indices[:, 0], edge_indices[:, 1]] = 0
        full_diff, ablated_diff = (
            evaluate_circuits(edges, batch, circuits, batch_tokens=batch_tokens)[..., 0]
            for circuits in (full[None], masks)
        )
        effects = full_diff - ablated_diff
        scores = torch.zeros(len(batch.clean), *full.shape)
        scores[:, edge_indices[:, 0], edge_indices[:, 1]] = effects.T
        results.append(EdgeScores(scores, torch.zeros(len(batch.clean)), 0))
    return _joined(results, 0)


def denoising_patching(edges: CircuitModel, batches: Sequence[PromptPairs], *, batch_tokens: int = 4096) -> EdgeScores:
    """Increase of the corrupted run's logit difference when one edge carries its clean value.

    The counterpart of ``exact_patching``, which corrupts one edge of the clean run; they differ where components interact.
    """
    swapped_batches = [PromptPairs(batch.corrupted, batch.clean, batch.answers, batch.subjects) for batch in batches]
    noising = exact_patching(edges, swapped_batches, batch_tokens=batch_tokens)
    return EdgeScores(-noising.scores, noising.gap, 0)


def evaluate_circuits(edges: CircuitModel, batch: PromptPairs, masks: Tensor, *, batch_tokens: int = 4096) -> Tensor:
    """Logit difference of circuits, and whether the answer is their most probable token: (circuit, pair, 2)."""
    pairs, length = batch.clean.shape[:2]
    results = []
    with torch.no_grad():
        base = edges.record(batch.corrupted)
        for chunk in masks.split(max(1, batch_tokens // (pairs * length))):
            logits = edges.run(batch.clean, base, chunk)[0]
            is_correct = logits.argmax(-1) == batch.answers[:, 0]
            results.append(
                torch.stack([logit_difference(logits, batch.answers), is_correct.to(logits.dtype)], -1).cpu()
            )
    return torch.cat(results)


def _along(edges: CircuitModel, batch: PromptPairs, points: Sequence[float]) -> EdgeScores:
    """Scores of one batch, with gradients averaged over points from corrupted (0) to clean (1)."""
    with torch.no_grad():
        base, clean = edges.record(batch.corrupted), edges.record(batch.clean)
    full = edges.graph.edges.float()[None]
    total = torch.zeros(len(batch.clean), *full.shape[1:], dtype=batch.clean.dtype)
    with frozen_parameters(edges.model), torch.enable_grad():
        for point in points:
            # Clone, since tensors of inference mode take no gradient.
            inputs = torch.lerp(batch.corrupted, batch.clean, point).clone().requires_grad_()
            logits, reads = edges.run(inputs, base, full)
            gradients = torch.autograd.grad(logit_difference(logits[0], batch.answers).sum(), reads)
            total += edges.effects(clean, base, gradients).cpu()
    scores = total / len(points)
    end_diffs = evaluate_circuits(edges, batch, torch.cat([full, 0 * full]))[..., 0]
    total_effect = end_diffs[0] - end_diffs[1]
    gap = (scores[:, 0].sum(-1) - total_effect).abs() / total_effect.abs()
    return EdgeScores(scores * edges.graph.edges, gap, len(points))


def _joined(parts: Sequence[EdgeScores], steps: int) -> EdgeScores:
    return EdgeScores(torch.cat([part.scores for part in parts]), torch.cat([part.gap for part in parts]), steps)
