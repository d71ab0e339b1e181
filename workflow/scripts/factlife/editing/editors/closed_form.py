"""What the closed forms share: new values, keys, residuals layer by layer, one solver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import ClosedFormEditor
from factlife.editing import compute_z
from factlife.editing.editable import Deltas, EditableModel, apply_deltas, merge_deltas
from factlife.editing.requests import EditError
from factlife.editing.solver import UpdateCost, ridge_for_fraction, solve_update


@dataclass
class BatchMemory:
    """What later batches are told of earlier ones.

    Attributes:
        costs: by block, the cost of changes, with what was written before, and the ridge.
        norms: by block, the norm to which NAS scales what MLPs are to write.
    """

    costs: dict[int, tuple[UpdateCost, float]] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)


def edit(
    target: EditableModel,
    requests: pd.DataFrame,
    settings: ClosedFormEditor,
    memory: dict[str, BatchMemory],
    *,
    cost: Callable[[Tensor], UpdateCost],
    weight: float | None,
    share: float | None = None,
    remember: bool = False,
    halves: bool = True,
    bare: bool = False,
) -> Deltas:
    """Changes that write a batch of requests.

    The residual that the new values need after the last layer is spread over the layers: the first of n writes 1/n of
    it, the next 1/(n-1) of what is then left (MEMIT, Meng et al. 2023, eq. 20). With ``place.spread`` at the boundary,
    the first layer writes all that vectors after it ask for, and then the last one what is still lacking there (BLUE,
    2502.03748).

    Args:
        target: the model; its weights are as before when this returns.
        requests: usable ones.
        settings: of the editor.
        memory: of earlier batches; changes in place.
        cost: M, from the second moment of a block's keys.
        weight: λ; if it is None, that at which the average key gets ``share`` of its residual.
        share: see there.
        remember: spare the keys of this batch in later ones.
        halves: the bare prompt is half of each key; without, it counts as one of the contexts.
        bare: scale changes such that the bare prompt's key gets the whole residual, alone.

    Raises:
        EditError: the editor cannot edit this model.
    """
    if target.parts.post_norm:
        raise EditError(
            "this architecture writes its MLP's output through a norm, which closed forms do not solve for; "
            "use an editor of kind locft"
        )
    known = memory.setdefault("closed form", BatchMemory())
    place, search = settings.site, settings.values
    layers = [target.layer(layer) for layer in place.layers]
    if place.spread == "boundary":
        layers = list(dict.fromkeys([layers[0], layers[-1]]))
    stages = [[layer] for layer in layers] if place.spread == "boundary" else [layers]
    deltas: Deltas = {}
    for stage in stages:
        with apply_deltas(target.model, deltas):
            here = place.model_copy(update={"layers": stage})
            found = target.target_vectors or compute_z.compute_target_vectors(target, requests, here, search)
        if search.norm_anchor:
            found = _anchored(found, known, stage[-1])
        for number, layer in enumerate(stage):
            with apply_deltas(target.model, deltas):
                keys = compute_z.compute_keys(
                    target, requests, found.slots, place, layer, search.n_context_templates, halves=halves
                )
                left = found.wanted - compute_z.compute_hidden_states(target, requests, found.slots, place, stage[-1])
                alone = compute_z.compute_keys(target, requests, found.slots, place, layer, 0) if bare else None
            if layer not in known.costs:
                known.costs[layer] = _priced(cost(target.key_covariance(layer)), keys, weight, share, layer)
            change = solve_update(left.T / (len(stage) - number), keys, *known.costs[layer])
            if alone is not None:
                change = change * _part(change, keys, alone)
            deltas = merge_deltas(deltas, target.delta(layer, change))
    if remember:
        # The keys that the edited model reads, as the original adds them after all layers are written.
        with apply_deltas(target.model, deltas):
            for layer in layers:
                price, ridge = known.costs[layer]
                keys = compute_z.compute_keys(
                    target, requests, found.slots, place, layer, search.n_context_templates, halves=halves
                )
                known.costs[layer] = price.remember(keys, ridge), ridge
    return deltas


def _priced(
    price: UpdateCost, keys: Tensor, weight: float | None, share: float | None, layer: int
) -> tuple[UpdateCost, float]:
    strength = price.strength(keys)
    ridge = weight if weight is not None else ridge_for_fraction(share, strength)
    logging.info(
        "block %d: q %.3g to %.3g, λ %.3g, %d dimensions", layer, strength.min(), strength.max(), ridge, price.size
    )
    return price, ridge


def _anchored(found: compute_z.Found, known: BatchMemory, layer: int) -> compute_z.Found:
    """What the MLP is to write, rescaled to the mean norm over the first batch, less its longest twentieth (NAS)."""
    written = found.written + found.delta
    norms = written.norm(dim=1)
    if layer not in known.norms:
        known.norms[layer] = norms.sort().values[: max(1, len(norms) - len(norms) // 20)].mean().item()
    norm = known.norms[layer]
    scaled = torch.where((norms > 2 * norm)[:, None], found.written, written * (norm / norms)[:, None])
    return replace(found, delta=scaled - found.written)


def _part(change: Tensor, keys: Tensor, alone: Tensor) -> Tensor:
    """uᵀ k / uᵀ k₀ of the rank-one change δ uᵀ / (uᵀ k)."""
    got, asked = change @ alone.double(), change @ keys.double()
    return (asked * asked).sum() / (got * asked).sum()
