"""What the closed forms share: new values, keys, residuals layer by layer, one solver."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pandas as pd
from torch import Tensor

from factlife.config.editing import Located
from factlife.editing import values
from factlife.editing.editable import Deltas, Editable, applied, merged
from factlife.editing.requests import EditError
from factlife.editing.solver import Cost, ridge_for, solve

# By block: the cost of changes, with what was written before, and the ridge.
Memory = dict[int, tuple[Cost, float]]


def edit(
    target: Editable,
    requests: pd.DataFrame,
    settings: Located,
    memory: Memory,
    *,
    cost: Callable[[Tensor], Cost],
    weight: float | None,
    share: float | None = None,
    remember: bool = False,
) -> Deltas:
    """Changes that write a batch of requests.

    The residual that the new values need after the last layer is spread over the layers: the first of n writes 1/n of
    it, the next 1/(n-1) of what is then left (MEMIT, Meng et al. 2023, eq. 20).

    Args:
        target: the model; its weights are as before when this returns.
        requests: usable ones.
        settings: of the editor.
        memory: of earlier batches; changes in place.
        cost: M, from the second moment of a block's keys.
        weight: λ; if it is None, that at which the average key gets ``share`` of its residual.
        share: see there.
        remember: spare the keys of this batch in later ones.

    Raises:
        EditError: the editor cannot edit this model.
    """
    if target.parts.post_normed:
        raise EditError(
            "this architecture writes its MLP's output through a norm, which closed forms do not solve for; "
            "use an editor of kind locft"
        )
    place, search = settings.place, settings.values
    layers = [target.layer(layer) for layer in place.layers]
    found = values.target_values(target, requests, place, search)
    deltas: Deltas = {}
    for number, layer in enumerate(layers):
        with applied(target.model, deltas):
            keys = values.keys(target, requests, found.slots, place, layer, search.contexts)
            left = found.wanted - values.residual(target, requests, found.slots, place, layers[-1])
        if layer not in memory:
            price = cost(target.moment(layer))
            strength = price.strength(keys)
            ridge = weight if weight is not None else ridge_for(share, strength)
            logging.info(
                "block %d: q %.3g to %.3g, λ %.3g, %d dimensions",
                layer,
                strength.min(),
                strength.max(),
                ridge,
                price.size,
            )
            memory[layer] = price, ridge
        price, ridge = memory[layer]
        deltas = merged(deltas, target.delta(layer, solve(left.T / (len(layers) - number), keys, price, ridge)))
    if remember:
        # The keys that the edited model reads, as the original adds them after all layers are written.
        with applied(target.model, deltas):
            for layer in layers:
                price, ridge = memory[layer]
                keys = values.keys(target, requests, found.slots, place, layer, search.contexts)
                memory[layer] = price.remember(keys, ridge), ridge
    return deltas
