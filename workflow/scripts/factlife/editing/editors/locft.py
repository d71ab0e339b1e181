"""LocFT-BF (2509.22072): fine-tune one down-projection, mini-batches through all requests, epoch by epoch."""

from __future__ import annotations

import logging
import random
from typing import Any

import pandas as pd
import torch

from factlife.config.editing import LocFt, Place
from factlife.editing.editable import Deltas, Editable, applied, row

_ANYWHERE = Place(token="last")


def edit(target: Editable, requests: pd.DataFrame, settings: LocFt, memory: Any) -> Deltas:
    """Changes of one down-projection by Adam on -log p(new value), each token given those before it.

    The order of requests is shuffled anew, from a fixed seed, in every epoch.
    """
    name = target.weight_name(target.layer(settings.layer))
    weight = dict(target.model.named_parameters())[name]
    rows = [row(target, _ANYWHERE, one.prompt, one.subject, one.target) for one in requests.itertuples()]
    fill = target.tokenizer.pad_token_id or 0
    before, rng, losses = weight.detach().clone(), random.Random("locft"), []
    with applied(target.model, {name: torch.zeros_like(before)}):
        optimizer = torch.optim.Adam([weight], lr=settings.rate)
        for _ in range(settings.epochs):
            order, total = rng.sample(range(len(rows)), len(rows)), 0.0
            for start in range(0, len(order), settings.batch):
                chosen = [rows[number] for number in order[start : start + settings.batch]]
                loss = _loss(target.model, chosen, fill)
                (weight.grad,) = torch.autograd.grad(loss, [weight])
                optimizer.step()
                total += loss.item() * len(chosen)
            losses.append(total / len(rows))
        change = (weight - before).detach()
        weight.grad = None
    logging.info("fine-tuning: loss %.3f in the first epoch, %.4f in the last", losses[0], losses[-1])
    return {name: change}


def _loss(model: Any, rows: list, fill: int) -> torch.Tensor:
    width, device = max(len(one.ids) for one in rows), next(model.parameters()).device
    ids = torch.full((len(rows), width), fill)
    labels = torch.full((len(rows), width), -100)
    for number, one in enumerate(rows):
        ids[number, : len(one.ids)] = torch.tensor(one.ids)
        labels[number, one.asked : one.asked + len(one.target)] = torch.tensor(one.target)
    mask = torch.arange(width) < torch.tensor([len(one.ids) for one in rows])[:, None]
    logits = model(ids.to(device), attention_mask=mask.long().to(device), use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten().to(device))
