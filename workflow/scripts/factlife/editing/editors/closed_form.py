"""The common procedure of closed-form editors: target vectors, keys, residuals layer by layer, and the solver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import ClosedFormEditor
from factlife.editing import compute_ks, compute_z
from factlife.editing.editable import Deltas, EditableModel, apply_deltas, merge_deltas
from factlife.editing.requests import EditError
from factlife.editing.solver import UpdateCost, ridge_for_fraction, solve_update


@dataclass
class BatchMemory:
    """State that later batches need from earlier ones.

    Attributes:
        costs: by block, the cost of changes, including preserved edits, and the ridge.
        norms: by block, the norm to which NAS rescales the target output of the MLP.
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
    ridge: float | None,
    residual_fraction: float | None = None,
    preserve: bool = False,
    half_bare: bool = True,
    legacy: bool = False,
) -> Deltas:
    """Weight changes that write a batch of requests.

    The residual after the last layer is spread over the layers: the first of n layers writes 1/n of it, the next 1/(n-1) of
    what is then left (MEMIT, Meng et al. 2023, eq. 20). With ``spread: boundary``, the first layer writes the whole residual
    of target vectors after it, and then the last layer writes what is still missing there (BLUE, 2502.03748).

    Args:
        target: the model; its weights are restored when this returns.
        requests: usable ones.
        settings: of the editor.
        memory: of earlier batches; changes in place.
        cost: M, as a function of a block's key covariance.
        ridge: λ; if None, the λ at which the average key receives ``residual_fraction`` of its residual.
        residual_fraction: sets λ if ``ridge`` is None.
        preserve: preserve the keys of this batch in later ones.
        half_bare: the bare prompt makes up half of each key; without, it counts as one of the contexts.
        legacy: scale changes such that the key of the bare prompt receives the whole residual.

    Raises:
        EditError: the editor cannot edit this model.
    """
    if target.parts.post_norm:
        raise EditError(
            "this architecture applies a norm to its MLP's output, which closed forms do not solve for; "
            "use an editor of kind locft"
        )
    state = memory.setdefault("closed form", BatchMemory())
    site, values = settings.site, settings.values
    layers = [target.layer_index(layer) for layer in site.layers]
    if site.spread == "boundary":
        layers = list(dict.fromkeys([layers[0], layers[-1]]))
    stages = [[layer] for layer in layers] if site.spread == "boundary" else [layers]
    n_templates = values.n_context_templates
    deltas: Deltas = {}
    for stage in stages:
        with apply_deltas(target.model, deltas):
            stage_site = site.model_copy(update={"layers": stage})
            vectors = target.target_vectors or compute_z.compute_target_vectors(target, requests, stage_site, values)
        if values.norm_anchor:
            vectors = _rescale_to_anchor(vectors, state, stage[-1])
        slots = vectors.slots
        for i, layer in enumerate(stage):
            with apply_deltas(target.model, deltas):
                keys = compute_ks.compute_keys(target, requests, slots, site, layer, n_templates, half_bare=half_bare)
                residuals = vectors.z - compute_ks.compute_hidden_states(target, requests, slots, site, stage[-1])
                bare_keys = compute_ks.compute_keys(target, requests, slots, site, layer, 0) if legacy else None
            if layer not in state.costs:
                update_cost = cost(target.key_covariance(layer))
                state.costs[layer] = _with_ridge(update_cost, keys, ridge, residual_fraction, layer)
            delta = solve_update(residuals.T / (len(stage) - i), keys, *state.costs[layer])
            if bare_keys is not None:
                delta = delta * _legacy_scale(delta, keys, bare_keys)
            deltas = merge_deltas(deltas, target.weight_delta(layer, delta))
    if preserve:
        # The keys of the edited model: the original adds them after all layers are written.
        with apply_deltas(target.model, deltas):
            for layer in layers:
                update_cost, layer_ridge = state.costs[layer]
                keys = compute_ks.compute_keys(target, requests, slots, site, layer, n_templates, half_bare=half_bare)
                state.costs[layer] = update_cost.preserve(keys, layer_ridge), layer_ridge
    return deltas


def _with_ridge(
    cost: UpdateCost, keys: Tensor, ridge: float | None, residual_fraction: float | None, layer: int
) -> tuple[UpdateCost, float]:
    leverage = cost.leverage(keys)
    if ridge is None:
        if residual_fraction is None:
            raise EditError("a closed form needs a ridge or `residual_fraction`")
        ridge = ridge_for_fraction(residual_fraction, leverage)
    logging.info(
        "block %d: q %.3g to %.3g, λ %.3g, %d dimensions", layer, leverage.min(), leverage.max(), ridge, cost.size
    )
    return cost, ridge


def _rescale_to_anchor(vectors: compute_z.TargetVectors, state: BatchMemory, layer: int) -> compute_z.TargetVectors:
    """Rescale the MLP's target output to its mean norm over the first batch, excluding the longest 5 % (NAS)."""
    outputs = vectors.mlp_output + vectors.delta
    norms = outputs.norm(dim=1)
    if layer not in state.norms:
        state.norms[layer] = norms.sort().values[: max(1, len(norms) - len(norms) // 20)].mean().item()
    norm = state.norms[layer]
    rescaled = torch.where((norms > 2 * norm)[:, None], vectors.mlp_output, outputs * (norm / norms)[:, None])
    return replace(vectors, delta=rescaled - vectors.mlp_output)


def _legacy_scale(delta: Tensor, keys: Tensor, bare_keys: Tensor) -> Tensor:
    """uᵀ k / uᵀ k₀ of the rank-one change δ uᵀ / (uᵀ k)."""
    bare_output, output = delta @ bare_keys.double(), delta @ keys.double()
    return (output * output).sum() / (bare_output * output).sum()
