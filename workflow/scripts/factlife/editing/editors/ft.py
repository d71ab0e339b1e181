"""FT-L: fine-tune one down-projection and hold each of its entries near to where it was (Zhu et al. 2020, eq. 3)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from factlife.config.editing import Ft
from factlife.editing.editable import Deltas, EditableModel, apply_deltas
from factlife.editing.editors.tuning import finetune_weights, training_sequences


def edit(target: EditableModel, requests: pd.DataFrame, settings: Ft, memory: Any) -> Deltas:
    """Changes of one down-projection with |ΔW| ≤ ``norm_constraint`` in every entry, after every step."""
    name = target.weight_name(target.layer(settings.layer))
    weight = dict(target.model.named_parameters())[name]
    before, made = weight.detach().clone(), training_sequences(target, requests, end=settings.append_eos)
    limit = settings.norm_constraint * (before.std().item() if settings.units == "relative" else 1.0)

    def hold() -> None:
        with torch.no_grad():
            weight.copy_(torch.clamp(weight, before - limit, before + limit))

    with apply_deltas(target.model, {name: torch.zeros_like(before)}):
        finetune_weights(
            target.model, made, [weight],
            epochs=settings.num_steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate, loss_threshold=settings.loss_threshold, after_step=hold,
            pad_token_id=target.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        return {name: (weight - before).detach()}
