"""EMMET (Gupta et al. 2024): ROME for a batch."""

from __future__ import annotations

import pandas as pd

from factlife.config.editing import Emmet
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors import closed_form
from factlife.editing.solver import UpdateCost


def edit(
    target: EditableModel, requests: pd.DataFrame, settings: Emmet, memory: dict[str, closed_form.BatchMemory]
) -> Deltas:
    """Δ = R (λ I + Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹ with a small λ."""
    return closed_form.edit(target, requests, settings, memory, cost=UpdateCost, ridge=settings.emmet_lambda)
