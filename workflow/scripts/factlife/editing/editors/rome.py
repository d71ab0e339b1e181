"""ROME (Meng et al. 2022), with the averaged key throughout (r-ROME, Gupta et al. 2024), or as first published."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import Rome
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.solver import UpdateCost


def edit(
    target: EditableModel, requests: pd.DataFrame, settings: Rome, memory: dict[str, closed_form.BatchMemory]
) -> Deltas:
    """Δ = δ uᵀ / (uᵀ k), u = C⁻¹ k: the solver without a ridge; k is the mean over the bare prompt and contexts.

    As first published, the denominator is uᵀ k₀ with the key k₀ of the bare prompt: where uᵀ k₀ is small, the change is
    large and disables the model.
    """

    def cost(covariance: Tensor) -> UpdateCost:
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        return UpdateCost(covariance if settings.mom2_adjustment else identity)

    return closed_form.edit(
        target, requests, settings, memory, cost=cost, ridge=0.0, half_bare=False, legacy=settings.legacy
    )
