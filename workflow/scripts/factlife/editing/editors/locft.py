"""LocFT-BF (2509.22072): fine-tune one down-projection, mini-batches through all requests, epoch by epoch."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from factlife.config.editing import LocFt
from factlife.editing.editable import Deltas, Editable, applied
from factlife.editing.editors.tuning import rows, tune


def edit(target: Editable, requests: pd.DataFrame, settings: LocFt, memory: Any) -> Deltas:
    """Changes of one down-projection, breadth first: no request is trained twice before all were trained once."""
    name = target.weight_name(target.layer(settings.layer))
    weight = dict(target.model.named_parameters())[name]
    before, made = weight.detach().clone(), rows(target, requests, end=settings.end)
    with applied(target.model, {name: torch.zeros_like(before)}):
        tune(
            target.model, made, [weight],
            epochs=settings.epochs, batch=settings.batch, rate=settings.rate, fill=target.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        return {name: (weight - before).detach()}
