"""What editors by fine-tuning share: requests as batches of labelled tokens, and epochs of Adam over them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import EditSite
from factlife.editing.editable import EditableModel, EditSequence, tokenize_prompt

_ANYWHERE = EditSite(fact_token="last")


def training_sequences(target: EditableModel, requests: pd.DataFrame, *, end: bool = False) -> list[EditSequence]:
    """Requests as tokens: a prompt with its new value, which may end with the end-of-text token."""
    return [
        tokenize_prompt(target, _ANYWHERE, one.prompt, one.subject, one.target_new, end=end)
        for one in requests.itertuples()
    ]


def finetune_weights(
    model: Any,
    made: Sequence[EditSequence],
    trained: Sequence[Tensor],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    pad_token_id: int,
    loss_threshold: float = 0.0,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train some weights, which change in place, by Adam on -log p(new value), each token given those before it.

    The order of requests is shuffled anew, from a fixed seed, in every epoch.

    Args:
        model: in eval mode.
        made: requests as tokens.
        trained: the weights.
        epochs: times through the requests.
        batch_size: requests per step.
        learning_rate: of Adam.
        pad_token_id: a token id for padding.
        loss_threshold: mean loss of an epoch in nats below which the next does not begin.
        after_step: called after each step.
    """
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    rng, losses = random.Random("tuning"), []
    for _ in range(epochs):
        order, total = rng.sample(range(len(made)), len(made)), 0.0
        for start in range(0, len(order), batch_size):
            chosen = [made[number] for number in order[start : start + batch_size]]
            loss = answer_loss(model, chosen, pad_token_id)
            for weight, gradient in zip(trained, torch.autograd.grad(loss, list(trained)), strict=True):
                weight.grad = gradient
            optimizer.step()
            after_step()
            total += loss.item() * len(chosen)
        losses.append(total / len(made))
        if losses[-1] < loss_threshold:
            break
    for weight in trained:
        weight.grad = None
    logging.info(
        "fine-tuning: loss %.3f in the first of %d epochs, %.4f in the last", losses[0], len(losses), losses[-1]
    )


def answer_loss(model: Any, made: Sequence[EditSequence], fill: int) -> Tensor:
    """Mean over the answers' tokens of -log p, each given those before it."""
    ids, labels, mask = pad_sequences(made, fill, next(model.parameters()).device)
    logits = model(ids, attention_mask=mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def pad_sequences(made: Sequence[EditSequence], fill: int, device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels (-100 but where an answer's token follows) and mask, each (row, position)."""
    width = max(len(one.ids) for one in made)
    ids, labels = torch.full((len(made), width), fill), torch.full((len(made), width), -100)
    for number, one in enumerate(made):
        ids[number, : len(one.ids)] = torch.tensor(one.ids)
        labels[number, one.asked : one.asked + len(one.target)] = torch.tensor(one.target)
    mask = torch.arange(width) < torch.tensor([len(one.ids) for one in made])[:, None]
    return ids.to(device), labels.to(device), mask.long().to(device)
