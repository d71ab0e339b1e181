"""FT-L: fine-tune one down-projection and hold each of its entries near to where it was (Zhu et al. 2020, eq. 3)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from factlife.config.editing import Ft
from factlife.editing.editable import Deltas, Editable, applied
from factlife.editing.editors.tuning import rows, tune


def edit(target: Editable, requests: pd.DataFrame, settings: Ft, memory: Any) -> Deltas:
    """Changes of one down-projection with |ΔW| ≤ ``limit`` in every entry, after every step."""
    name = target.weight_name(target.layer(settings.layer))
    weight = dict(target.model.named_parameters())[name]
    before, made = weight.detach().clone(), rows(target, requests, end=settings.end)
    limit = settings.limit * (before.std().item() if settings.units == "relative" else 1.0)

    def hold() -> None:
        with torch.no_grad():
            weight.copy_(torch.clamp(weight, before - limit, before + limit))

    with applied(target.model, {name: torch.zeros_like(before)}):
        tune(
            target.model, made, [weight],
            epochs=settings.steps, batch=settings.batch, rate=settings.rate, stop=settings.stop, after=hold,
            fill=target.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        return {name: (weight - before).detach()}
