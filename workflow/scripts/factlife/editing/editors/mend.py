"""MEND (Mitchell et al. 2022): one pass forward and one backward, and a trained network that makes of these the changes."""

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
    """ΔW = -α Σ δ̃ ũᵀ over all tokens of all requests: the sum of what each request alone would change.

    Raises:
        EditError: no network was trained.
    """
    network = target.hypernetwork
    if network is None:
        raise EditError("no network was trained for this model; train one of `editing.hypernetworks`")
    modules = {name: target.model.get_submodule(name) for name in network.shapes}
    total: dict[str, torch.Tensor] = {}
    for found in mend.batched_gradient_factors(target, modules, training_sequences(target, requests)):
        for name, change in network.changes(found).items():
            total[name] = total[name] + change if name in total else change
    return {f"{name}.weight": to_weight_layout(modules[name], change) for name, change in total.items()}
