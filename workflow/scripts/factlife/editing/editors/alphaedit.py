"""AlphaEdit (Fang et al. 2025), solved in coordinates of the null space instead of with its projection matrix."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import AlphaEdit
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.solver import UpdateCost, null_space


def edit(
    target: EditableModel, requests: pd.DataFrame, settings: AlphaEdit, memory: dict[str, closed_form.BatchMemory]
) -> Deltas:
    """Δ = R Kᵀ P (Kp Kpᵀ P + K Kᵀ P + L2 I)⁻¹: in coordinates of the null space all matrices are symmetric, and r × r."""

    def cost(covariance: Tensor) -> UpdateCost:
        basis = null_space(covariance, energy=settings.nullspace_energy, threshold=settings.nullspace_threshold)
        return UpdateCost(torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device), basis)

    return closed_form.edit(
        target, requests, settings, memory,
        cost=cost, ridge=settings.L2, residual_fraction=settings.residual_fraction, preserve=True,
    )  # fmt: skip
