"""Interventions on features: effects that a graph predicts, and effects measured with less and less of the model frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from factlife.graphs.graph import AttributionGraph, total_effects
from factlife.graphs.replacement import FrozenModel, LogitTarget
from factlife.saes.dictionary import Dictionary

# `linear`: transcoders replace MLPs, and features do not switch on or off; `replacement`: transcoders replace MLPs;
# `frozen`: the model's own MLPs. These three freeze attention patterns and norms. `unfrozen`: the model as it is.
Setting = Literal["linear", "replacement", "frozen", "unfrozen"]
SETTINGS: tuple[Setting, ...] = ("linear", "replacement", "frozen", "unfrozen")
_BATCH_SIZE = 64


@dataclass(frozen=True)
class SteeringVectors:
    """Vectors to add to MLP outputs, for several runs at once.

    Attributes:
        runs: (vectors,), run of each vector, from 0.
        layers: (vectors,).
        positions: (vectors,).
        vectors: (vectors, d_model).
    """

    runs: Tensor
    layers: Tensor
    positions: Tensor
    vectors: Tensor

    def select_runs(self, start: int, end: int) -> SteeringVectors:
        """The vectors of runs from ``start`` to before ``end``, with runs counted from 0 again."""
        keep = (self.runs >= start) & (self.runs < end)
        return SteeringVectors(self.runs[keep] - start, self.layers[keep], self.positions[keep], self.vectors[keep])


def steer_features(
    graph: AttributionGraph,
    transcoders: list[Dictionary],
    features: Tensor,
    factors: Tensor,
    runs: Tensor | None = None,
) -> SteeringVectors:
    """Multiply the activations of features by factors; 0 ablates a feature.

    Args:
        graph: the graph of the features.
        transcoders: one per layer.
        features: (vectors,), indices of features in the graph.
        factors: (vectors,).
        runs: (vectors,), run of each feature; features of one run are changed together. None gives each its own run.
    """
    positions = graph.features[features]
    rows = torch.stack([transcoders[layer].W_dec[feature] for layer, _, feature in positions.tolist()])
    sizes = ((factors - 1) * graph.activations[features]).to(rows)
    runs = torch.arange(len(features)) if runs is None else runs
    return SteeringVectors(runs, positions[:, 0], positions[:, 1], sizes[:, None] * rows)


def random_directions(steering: SteeringVectors, seed: int) -> SteeringVectors:
    """The control: vectors of the same length at the same layers and positions, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(steering.vectors.shape, generator=generator).to(steering.vectors)
    noise *= steering.vectors.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return SteeringVectors(steering.runs, steering.layers, steering.positions, noise)


def predict_effects(graph: AttributionGraph, features: Tensor, factors: Tensor, runs: Tensor | None = None) -> Tensor:
    """Predicted changes of the targets, (runs, targets), along all paths through the graph.

    Args:
        graph: the graph.
        features: (vectors,), indices of features in the graph.
        factors: (vectors,), by which the features' activations are multiplied.
        runs: (vectors,), run of each feature; None gives each its own run.
    """
    return _sum_by_run(total_effects(graph), features, factors, runs)


def predict_direct_effects(
    graph: AttributionGraph, features: Tensor, factors: Tensor, runs: Tensor | None = None
) -> Tensor:
    """Predicted changes of the targets, (runs, targets), along direct edges to the targets only.

    Args:
        graph: the graph.
        features: (vectors,), indices of features in the graph.
        factors: (vectors,), by which the features' activations are multiplied.
        runs: (vectors,), run of each feature; None gives each its own run.
    """
    direct = graph.effects[graph.node_slices["logits"], graph.node_slices["features"]]
    return _sum_by_run(direct, features, factors, runs)


def _sum_by_run(effects: Tensor, features: Tensor, factors: Tensor, runs: Tensor | None) -> Tensor:
    changes = ((factors - 1) * effects[:, features]).T
    if runs is None:
        return changes
    return torch.zeros(int(runs.max()) + 1, changes.shape[1], dtype=changes.dtype).index_add_(0, runs, changes)


@torch.no_grad()
def measure_effects(
    frozen_model: FrozenModel,
    transcoders: list[Dictionary],
    acts: list[Tensor],
    targets: list[LogitTarget],
    steering: SteeringVectors,
    setting: Setting,
) -> Tensor:
    """Measured changes of the targets, (runs, targets), when vectors are added to MLP outputs.

    Args:
        frozen_model: the model, frozen on the prompt.
        transcoders: one per layer.
        acts: feature activations of each layer on the prompt, (n, d_sae), from ``feature_activations``.
        targets: the targets to measure.
        steering: the vectors to add.
        setting: the parts of the model that are replaced or frozen, one of ``SETTINGS``.
    """
    n_runs = int(steering.runs.max()) + 1
    baseline = frozen_model.target_values(targets, frozen_model.hidden[-1])
    changes = []
    for start in range(0, n_runs, _BATCH_SIZE):
        batch = steering.select_runs(start, min(start + _BATCH_SIZE, n_runs))
        rows = min(_BATCH_SIZE, n_runs - start)

        def mlp(layer: int, x: Tensor, mlp_output: Tensor, batch: SteeringVectors = batch) -> Tensor:
            in_layer = batch.layers == layer
            output = _unsteered_output(frozen_model, transcoders[layer], acts[layer], layer, x, mlp_output, setting)
            indices = batch.runs[in_layer].to(output.device), batch.positions[in_layer].to(output.device)
            return output.index_put(indices, batch.vectors[in_layer].to(output), accumulate=True)

        embedding = frozen_model.embedding.expand(rows, -1, -1)
        _, hidden = frozen_model.run(embedding, mlp, unfrozen=setting == "unfrozen")
        changes.append(frozen_model.target_values(targets, hidden[:, -1]) - baseline)
    return torch.cat(changes).cpu()


def _unsteered_output(
    frozen_model: FrozenModel,
    transcoder: Dictionary,
    acts: Tensor,
    layer: int,
    x: Tensor,
    mlp_output: Tensor,
    setting: Setting,
) -> Tensor:
    if setting in ("frozen", "unfrozen"):
        return mlp_output
    # Positions without features in the graph, such as special tokens, get none here either.
    mask = (acts != 0) if setting == "linear" else (acts != 0).any(-1, keepdim=True)
    new_acts = transcoder.preactivations(x) if setting == "linear" else transcoder.encode(x)
    return frozen_model.mlp_outputs[layer] + (new_acts * mask - acts) @ transcoder.W_dec
