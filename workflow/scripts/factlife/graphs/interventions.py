"""Interventions on features: what a graph predicts, and what is measured while ever less of the model is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from factlife.graphs.graph import AttributionGraph, total_effects
from factlife.graphs.replacement import FrozenModel, LogitTarget
from factlife.saes.dictionary import Dictionary

# `linear`: features do not switch on or off, so that all is linear; `replacement`: transcoders in place of MLPs;
# `frozen`: the model's own MLPs; attention patterns and norms are held in these three; `unfrozen`: nothing is held.
Setting = Literal["linear", "replacement", "frozen", "unfrozen"]
SETTINGS: tuple[Setting, ...] = ("linear", "replacement", "frozen", "unfrozen")
_BATCH = 64


@dataclass(frozen=True)
class SteeringVectors:
    """Vectors added to what MLPs write, several runs at once.

    Attributes:
        runs: (changes,), which run each is of, from 0.
        layers: (changes,).
        positions: (changes,).
        vectors: (changes, d_model).
    """

    runs: Tensor
    layers: Tensor
    positions: Tensor
    vectors: Tensor

    def of(self, first: int, last: int) -> SteeringVectors:
        """Those of runs from ``first`` to before ``last``, counted anew."""
        keep = (self.runs >= first) & (self.runs < last)
        return SteeringVectors(self.runs[keep] - first, self.layers[keep], self.positions[keep], self.vectors[keep])


def steer_features(
    graph: AttributionGraph,
    transcoders: list[Dictionary],
    features: Tensor,
    multiples: Tensor,
    runs: Tensor | None = None,
) -> SteeringVectors:
    """Features set to multiples of what they are: 0 ablates them.

    Args:
        graph: has them.
        transcoders: one a layer.
        features: (changes,), numbers of the graph's features.
        multiples: (changes,).
        runs: (changes,), those of one run are changed together; each by itself if not given.
    """
    places = graph.features[features]
    rows = torch.stack([transcoders[layer].W_dec[number] for layer, _, number in places.tolist()])
    size = ((multiples - 1) * graph.activations[features]).to(rows)
    runs = torch.arange(len(features)) if runs is None else runs
    return SteeringVectors(runs, places[:, 0], places[:, 1], size[:, None] * rows)


def random_directions(changes: SteeringVectors, seed: int) -> SteeringVectors:
    """The control: vectors of the same lengths in the same places, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(changes.vectors.shape, generator=generator).to(changes.vectors)
    noise *= changes.vectors.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return SteeringVectors(changes.runs, changes.layers, changes.positions, noise)


def predict_effects(graph: AttributionGraph, features: Tensor, multiples: Tensor, runs: Tensor | None = None) -> Tensor:
    """Changes of the targets, (runs, targets), along all paths through the graph; arguments as of ``steer_features``."""
    return _summed(total_effects(graph), features, multiples, runs)


def predict_direct_effects(
    graph: AttributionGraph, features: Tensor, multiples: Tensor, runs: Tensor | None = None
) -> Tensor:
    """The same along edges to the targets alone: what one gets without propagating."""
    return _summed(graph.effects[graph.parts["logits"], graph.parts["features"]], features, multiples, runs)


def _summed(effects: Tensor, features: Tensor, multiples: Tensor, runs: Tensor | None) -> Tensor:
    each = ((multiples - 1) * effects[:, features]).T
    if runs is None:
        return each
    return torch.zeros(int(runs.max()) + 1, each.shape[1], dtype=each.dtype).index_add_(0, runs, each)


@torch.no_grad()
def measure_effects(
    held: FrozenModel,
    transcoders: list[Dictionary],
    acts: list[Tensor],
    targets: list[LogitTarget],
    changes: SteeringVectors,
    setting: Setting,
) -> Tensor:
    """Changes of the targets, (runs, targets), in runs in which vectors are added to what MLPs write.

    Args:
        held: the prompt's pass.
        transcoders: one a layer.
        acts: activations of each layer's features in that pass, (n, d_sae), from ``feature_activations``.
        targets: what is measured.
        changes: what is added.
        setting: what is held, see ``SETTINGS``.
    """
    count = int(changes.runs.max()) + 1
    before = held.values(targets, held.hidden[-1])
    found = []
    for first in range(0, count, _BATCH):
        some = changes.of(first, min(first + _BATCH, count))
        rows = min(_BATCH, count - first)

        def mlp(layer: int, read: Tensor, written: Tensor, some: SteeringVectors = some) -> Tensor:
            here = some.layers == layer
            said = _written(held, transcoders[layer], acts[layer], layer, read, written, setting)
            at = some.runs[here].to(said.device), some.positions[here].to(said.device)
            return said.index_put(at, some.vectors[here].to(said), accumulate=True)

        _, hidden = held.run(held.embedding.expand(rows, -1, -1), mlp, free=setting == "unfrozen")
        found.append(held.values(targets, hidden[:, -1]) - before)
    return torch.cat(found).cpu()


def _written(
    held: FrozenModel, transcoder: Dictionary, acts: Tensor, layer: int, read: Tensor, written: Tensor, setting: Setting
) -> Tensor:
    if setting in ("frozen", "unfrozen"):
        return written
    # Where nothing was asked of features, at special tokens, none is.
    asked = (acts != 0) if setting == "linear" else (acts != 0).any(-1, keepdim=True)
    now = transcoder.preactivations(read) if setting == "linear" else transcoder.encode(read)
    return held.writes[layer] + (now * asked - acts) @ transcoder.W_dec
