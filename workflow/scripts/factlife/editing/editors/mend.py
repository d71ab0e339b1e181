"""MEND (Mitchell et al. 2022): one forward and one backward pass, and a hypernetwork that maps gradients to changes."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from factlife.config.editing import Mend
from factlife.editing import mend
from factlife.editing.editable import Deltas, EditableModel, to_weight_layout
from factlife.editing.editors.tuning import training_sequences
from factlife.editing.requests import EditError


@torch.no_grad()
def edit(target: EditableModel, requests: pd.DataFrame, settings: Mend, memory: Any) -> Deltas:
    """ΔW = -α Σ δ̃ ũᵀ over all tokens of all requests: the sum of the changes of single requests.

    Raises:
        EditError: no hypernetwork was trained.
    """
    network = target.hypernetwork
    if network is None:
        raise EditError("no hypernetwork was trained for this model; train one of `editing.hypernetworks`")
    modules = {name: target.model.get_submodule(name) for name in network.shapes}
    total: dict[str, torch.Tensor] = {}
    for factors in mend.batched_gradient_factors(target, modules, training_sequences(target, requests)):
        for name, delta in network.weight_changes(factors).items():
            total[name] = total[name] + delta if name in total else delta
    return {f"{name}.weight": to_weight_layout(modules[name], delta) for name, delta in total.items()}
