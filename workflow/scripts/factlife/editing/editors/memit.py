"""MEMIT (Meng et al. 2023), and sequential MEMIT, which also preserves the keys of earlier batches."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import Memit
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.requests import EditError
from factlife.editing.solver import UpdateCost


def edit(
    target: EditableModel, requests: pd.DataFrame, settings: Memit, memory: dict[str, closed_form.BatchMemory]
) -> Deltas:
    """Δ = R Kᵀ (λ C + K Kᵀ)⁻¹, in the solver's form; λ is given, or set by the fraction that the average request receives.

    With ENCORE's ridge γ: Δ = R Kᵀ (λ C + γ I + K Kᵀ)⁻¹ (2502.01636).
    """

    def cost(covariance: Tensor) -> UpdateCost:
        if not settings.update_norm_lambda:
            return UpdateCost(covariance)
        if settings.mom2_update_weight is None:
            raise EditError(
                "`update_norm_lambda` is in units of `mom2_update_weight`, which is null; set both, or neither"
            )
        identity = torch.eye(len(covariance)).to(covariance)
        return UpdateCost(covariance + settings.update_norm_lambda / settings.mom2_update_weight * identity)

    return closed_form.edit(
        target, requests, settings, memory, cost=cost, ridge=settings.mom2_update_weight,
        residual_fraction=settings.residual_fraction, preserve=settings.preserve_previous_edits,
    )  # fmt: skip
