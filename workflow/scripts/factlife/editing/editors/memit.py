"""MEMIT (Meng et al. 2023), and MEMIT sequential, which spares the keys of earlier batches too."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import Memit
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.solver import UpdateCost


def edit(target: EditableModel, requests: pd.DataFrame, settings: Memit, memory: closed_form.Memory) -> Deltas:
    """Δ = R Kᵀ (λ C + K Kᵀ)⁻¹, in the solver's form; λ such that the average request gets its share.

    With ENCORE's ridge γ: Δ = R Kᵀ (λ C + γ I + K Kᵀ)⁻¹ (2502.01636).
    """

    def cost(moment: Tensor) -> UpdateCost:
        if not settings.update_norm_lambda:
            return UpdateCost(moment)
        return UpdateCost(
            moment + settings.update_norm_lambda / settings.mom2_update_weight * torch.eye(len(moment)).to(moment)
        )

    return closed_form.edit(
        target, requests, settings, memory,
        cost=cost, weight=settings.mom2_update_weight, share=settings.residual_fraction, remember=settings.preserve_previous_edits,
    )  # fmt: skip
