"""LocFT-BF (2509.22072): fine-tune one down-projection, mini-batches through all requests, epoch by epoch."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from factlife.config.editing import LocFt
from factlife.editing.editable import Deltas, EditableModel, apply_deltas
from factlife.editing.editors.tuning import finetune_weights, training_sequences


def edit(target: EditableModel, requests: pd.DataFrame, settings: LocFt, memory: Any) -> Deltas:
    """Change of one down-projection, breadth first: each epoch visits every request once."""
    name = target.weight_name(target.layer_index(settings.layer))
    weight = dict(target.model.named_parameters())[name]
    original = weight.detach().clone()
    sequences = training_sequences(target, requests, append_eos=settings.append_eos)
    with apply_deltas(target.model, {name: torch.zeros_like(original)}):
        finetune_weights(
            target.model, sequences, [weight],
            epochs=settings.epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
            pad_token_id=target.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        return {name: (weight - original).detach()}
