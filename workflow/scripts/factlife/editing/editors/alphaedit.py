"""AlphaEdit (Fang et al. 2025), solved inside the null space instead of through its projection."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import AlphaEdit
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.solver import UpdateCost, null_space


def edit(target: EditableModel, requests: pd.DataFrame, settings: AlphaEdit, memory: closed_form.Memory) -> Deltas:
    """Δ = R Kᵀ P (Kp Kpᵀ P + K Kᵀ P + L2 I)⁻¹: in coordinates of the null space all is symmetric, and r × r."""

    def cost(moment: Tensor) -> UpdateCost:
        basis = null_space(moment, energy=settings.nullspace_energy, threshold=settings.nullspace_threshold)
        return UpdateCost(torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device), basis)

    return closed_form.edit(
        target, requests, settings, memory,
        cost=cost, weight=settings.L2, share=settings.residual_fraction, remember=True,
    )  # fmt: skip
