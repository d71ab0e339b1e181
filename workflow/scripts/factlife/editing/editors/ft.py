"""FT-L: fine-tune one down-projection under an L∞ norm constraint on its change (Zhu et al. 2020, eq. 3)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from factlife.config.editing import Ft
from factlife.editing.editable import Deltas, EditableModel, apply_deltas
from factlife.editing.editors.tuning import finetune_weights, training_sequences


def edit(target: EditableModel, requests: pd.DataFrame, settings: Ft, memory: Any) -> Deltas:
    """Change of one down-projection with |ΔW| ≤ ``norm_constraint`` in every entry, after every step."""
    name = target.weight_name(target.layer_index(settings.layer))
    weight = dict(target.model.named_parameters())[name]
    original = weight.detach().clone()
    sequences = training_sequences(target, requests, append_eos=settings.append_eos)
    limit = settings.norm_constraint * (original.std().item() if settings.units == "relative" else 1.0)

    def clamp() -> None:
        with torch.no_grad():
            weight.copy_(torch.clamp(weight, original - limit, original + limit))

    with apply_deltas(target.model, {name: torch.zeros_like(original)}):
        finetune_weights(
            target.model, sequences, [weight],
            epochs=settings.num_steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
            loss_threshold=settings.loss_threshold, after_step=clamp,
            pad_token_id=target.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        return {name: (weight - original).detach()}
