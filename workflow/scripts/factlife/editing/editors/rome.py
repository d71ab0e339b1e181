"""ROME (Meng et al. 2022), with the averaged key wherever a key stands (r-ROME, Gupta et al. 2024), or as first published."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import Rome
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.solver import UpdateCost


def edit(target: EditableModel, requests: pd.DataFrame, settings: Rome, memory: closed_form.Memory) -> Deltas:
    """Δ = δ uᵀ / (uᵀ k), u = C⁻¹ k: the solver without a ridge; k is the mean over the bare prompt and contexts.

    As first published, the denominator is uᵀ k₀ with k₀ of the bare prompt alone: where uᵀ k₀ is small, the change is large
    and disables the model.
    """

    def cost(moment: Tensor) -> UpdateCost:
        return UpdateCost(
            moment if settings.mom2_adjustment else torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        )

    return closed_form.edit(
        target, requests, settings, memory, cost=cost, weight=0.0, halves=False, bare=settings.legacy
    )
