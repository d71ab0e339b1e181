"""Perplexity of held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch


def text_losses(model: Any, tokenizer: Any, texts: Sequence[str], *, batch_tokens: int = 4096) -> pd.DataFrame:
    """How surprised a model is by each text.

    A text longer than the model's context is cut into windows that share one token, so that every token but the first
    of the text is predicted once, from what its window holds before it.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its tokenizer.
        texts: what is read.
        batch_tokens: tokens in a batch, padding included; no figure depends on it.

    Returns:
        One row per text: ``tokens``, those predicted; ``nats``, the sum of minus their log probabilities;
        ``characters``. A text of fewer than two tokens has no tokens and 0 nats.
    """
    context = getattr(model.config, "max_position_embeddings", None) or 1024
    windows = [
        (number, ids[start : start + context])
        for number, ids in enumerate(tokenizer(list(texts))["input_ids"] if len(texts) else [])
        for start in range(0, len(ids) - 1, context - 1)
    ]
    windows.sort(key=lambda window: len(window[1]))
    nats, tokens = [0.0] * len(texts), [0] * len(texts)
    while windows:
        size = max(1, batch_tokens // len(windows[-1][1]))
        batch, windows = windows[-size:], windows[:-size]
        for (number, ids), loss in zip(batch, _sequence_losses(model, [ids for _, ids in batch]), strict=True):
            nats[number] += loss
            tokens[number] += len(ids) - 1
    return pd.DataFrame({"tokens": tokens, "nats": nats, "characters": [len(text) for text in texts]})


def corpus_perplexity(rows: pd.DataFrame) -> float:
    """Of all texts together: exp of nats per predicted token. NaN where no token was predicted."""
    return math.exp(rows["nats"].sum() / rows["tokens"].sum()) if rows["tokens"].sum() else math.nan


@torch.inference_mode()
def _sequence_losses(model: Any, sequences: Sequence[Sequence[int]]) -> list[float]:
    length = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (length - len(sequence))] for sequence in sequences], device=model.device)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=model.device)
    # Padding is on the right and attention causal: what is read never sees it, and it is not scored.
    mask = torch.arange(length, device=model.device) < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses.double() * mask[:, 1:]).sum(1).tolist()
