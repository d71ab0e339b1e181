"""Perplexity of held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def text_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_tokens: int = 4096
) -> pd.DataFrame:
    """The loss of a model on each text.

    A text longer than the model's context is split into windows that overlap by one token. Every token but the text's
    first is thus predicted once, from the preceding tokens of its window.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its tokenizer.
        texts: the texts.
        batch_tokens: tokens per batch, including padding; losses do not depend on it.

    Returns:
        One row per text: ``tokens``, the number of predicted tokens; ``nats``, the sum of their negative log
        probabilities; ``characters``. A text of fewer than two tokens has 0 tokens and 0 nats.
    """
    context = getattr(model.config, "max_position_embeddings", None) or 1024
    windows = [
        (i, ids[start : start + context])
        for i, ids in enumerate(tokenizer(list(texts))["input_ids"] if len(texts) else [])
        for start in range(0, len(ids) - 1, context - 1)
    ]
    windows.sort(key=lambda window: len(window[1]))
    nats, tokens = [0.0] * len(texts), [0] * len(texts)
    while windows:
        batch_size = max(1, batch_tokens // len(windows[-1][1]))
        batch, windows = windows[-batch_size:], windows[:-batch_size]
        for (i, ids), loss in zip(batch, _sequence_losses(model, [ids for _, ids in batch]), strict=True):
            nats[i] += loss
            tokens[i] += len(ids) - 1
    return pd.DataFrame({"tokens": tokens, "nats": nats, "characters": [len(text) for text in texts]})


def corpus_perplexity(rows: pd.DataFrame) -> float:
    """Perplexity of all texts together: exp of nats per predicted token. NaN if no token was predicted."""
    return math.exp(rows["nats"].sum() / rows["tokens"].sum()) if rows["tokens"].sum() else math.nan


@torch.inference_mode()
def _sequence_losses(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[float]:
    length = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (length - len(sequence))] for sequence in sequences], device=model.device)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=model.device)
    # Padding is on the right and attention is causal, so no token attends to padding; padding is not scored.
    mask = torch.arange(length, device=model.device) < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses.double() * mask[:, 1:]).sum(1).tolist()
