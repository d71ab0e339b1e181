"""The common procedure of fine-tuning editors: requests as batches of labelled tokens, and epochs of Adam over them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from factlife.config.editing import EditSite
from factlife.editing.editable import EditableModel, EditSequence, tokenize_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAST_TOKEN = EditSite(fact_token="last")


def training_sequences(
    target: EditableModel, requests: pd.DataFrame, *, append_eos: bool = False
) -> list[EditSequence]:
    """Requests as tokens: each prompt with its new value."""
    return [
        tokenize_prompt(target, _LAST_TOKEN, request.prompt, request.subject, request.target_new, append_eos=append_eos)
        for request in requests.itertuples()
    ]


def finetune_weights(
    model: PreTrainedModel,
    sequences: Sequence[EditSequence],
    weights: Sequence[Tensor],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    pad_token_id: int,
    loss_threshold: float = 0.0,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train some weights in place by Adam on -log p(new value), each token given the tokens before it.

    The order of requests is shuffled in every epoch, from a fixed seed.

    Args:
        model: in eval mode.
        sequences: the tokenized requests.
        weights: to train.
        epochs: passes over the requests.
        batch_size: requests per step.
        learning_rate: of Adam.
        pad_token_id: a token id for padding.
        loss_threshold: training stops once the mean loss of an epoch, in nats, is below this.
        after_step: called after each step.
    """
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    rng, losses = random.Random("tuning"), []
    for _ in range(epochs):
        order, total = rng.sample(range(len(sequences)), len(sequences)), 0.0
        for start in range(0, len(order), batch_size):
            batch = [sequences[i] for i in order[start : start + batch_size]]
            loss = answer_loss(model, batch, pad_token_id)
            for weight, gradient in zip(weights, torch.autograd.grad(loss, list(weights)), strict=True):
                weight.grad = gradient
            optimizer.step()
            after_step()
            total += loss.item() * len(batch)
        losses.append(total / len(sequences))
        if losses[-1] < loss_threshold:
            break
    for weight in weights:
        weight.grad = None
    logging.info(
        "fine-tuning: loss %.3f in the first of %d epochs, %.4f in the last", losses[0], len(losses), losses[-1]
    )


def answer_loss(model: PreTrainedModel, sequences: Sequence[EditSequence], pad_token_id: int) -> Tensor:
    """Mean of -log p over the tokens of the answers, each given the tokens before it."""
    ids, labels, mask = pad_sequences(sequences, pad_token_id, next(model.parameters()).device)
    logits = model(ids, attention_mask=mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def pad_sequences(sequences: Sequence[EditSequence], pad_token_id: int, device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels (-100 except where an answer token follows) and mask, each (sequence, position)."""
    width = max(len(sequence.input_ids) for sequence in sequences)
    ids, labels = torch.full((len(sequences), width), pad_token_id), torch.full((len(sequences), width), -100)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
        end = sequence.prompt_end + len(sequence.target_ids)
        labels[row, sequence.prompt_end : end] = torch.tensor(sequence.target_ids)
    mask = torch.arange(width) < torch.tensor([len(sequence.input_ids) for sequence in sequences])[:, None]
    return ids.to(device), labels.to(device), mask.long().to(device)
