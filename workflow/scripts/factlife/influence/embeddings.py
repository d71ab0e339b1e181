"""Rankers that compare sentence embeddings of an encoder that never saw the facts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from factlife.config.influence import Embedding
from factlife.influence.tokenized_texts import TokenizedText, batch_texts


def rank_by_embedding(
    model: Any,
    tokenizer: Any,
    settings: Embedding,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    *,
    batch_tokens: int,
) -> np.ndarray:
    """Cosine of embeddings, (queries, documents).

    Args:
        model: of ``models.encoder``.
        tokenizer: its tokenizer.
        settings: what of a query is embedded.
        queries: a table of ``queries.select_queries``.
        documents: a table of ``queries.select_documents``.
        batch_tokens: tokens in a batch; no score depends on it.
    """
    asked = queries["prompt"]
    if settings.include_answer:
        asked = asked + " " + queries["completion"]
    sides = [
        embed_texts(model, tokenizer, texts.tolist(), batch_tokens=batch_tokens) for texts in (asked, documents["text"])
    ]
    return (sides[0] @ sides[1].T).cpu().numpy()


def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str], *, batch_tokens: int) -> Tensor:
    """Mean of the last hidden states over a text's tokens, as a unit vector (Reimers and Gurevych 2019), (texts, d_model).

    Texts that the encoder cannot read whole are cut, as encoders of sentences do, and counted in the log.
    """
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 2**31)
    ids = tokenizer(list(texts))["input_ids"]
    if cut := sum(len(one) > longest for one in ids):
        logging.warning(
            "%d of %d texts have more than the %d tokens that the encoder reads; they are cut", cut, len(ids), longest
        )
        ids = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    found = torch.zeros(len(ids), model.config.hidden_size)
    for batch in batch_texts(
        [TokenizedText(one, []) for one in ids], tokenizer.pad_token_id, batch_tokens, model.device
    ):
        with torch.inference_mode():
            hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask[..., None].to(hidden)
        found[batch.indices] = ((hidden * mask).sum(1) / mask.sum(1)).float().cpu()
    return torch.nn.functional.normalize(found, dim=1)
