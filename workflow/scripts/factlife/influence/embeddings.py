"""Ranker that compares embeddings of a sentence encoder, which has not seen the facts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from factlife.config.influence import Embedding
from factlife.influence.tokenized_texts import TokenizedText, batch_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def rank_by_embedding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Embedding,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    *,
    batch_tokens: int,
) -> np.ndarray:
    """Cosine similarity of embeddings, (queries, documents).

    Args:
        model: the result of ``models.encoder``.
        tokenizer: its tokenizer.
        settings: settings of the ranker.
        queries: the result of ``queries.select_queries``.
        documents: the result of ``queries.select_documents``.
        batch_tokens: tokens in a batch; no score depends on it.
    """
    query_texts = queries["prompt"]
    if settings.include_answer:
        query_texts = query_texts + " " + queries["completion"]
    query_vectors, document_vectors = (
        embed_texts(model, tokenizer, texts.tolist(), batch_tokens=batch_tokens)
        for texts in (query_texts, documents["text"])
    )
    return (query_vectors @ document_vectors.T).cpu().numpy()


def embed_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_tokens: int
) -> Tensor:
    """Mean of the last hidden states over the tokens, as unit vectors (Reimers and Gurevych 2019), (texts, d_model).

    Texts that are too long for the encoder are truncated, as is usual for sentence encoders; the log has their number.
    """
    max_length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 2**31)
    input_ids = tokenizer(list(texts))["input_ids"]
    if n_truncated := sum(len(ids) > max_length for ids in input_ids):
        logging.warning(
            "%d of %d texts have more than the %d tokens that the encoder reads; they are truncated",
            n_truncated, len(input_ids), max_length,
        )  # fmt: skip
        input_ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    embeddings = torch.zeros(len(input_ids), model.config.hidden_size)
    tokenized = [TokenizedText(ids, []) for ids in input_ids]
    for batch in batch_texts(tokenized, tokenizer.pad_token_id, batch_tokens, model.device):
        with torch.inference_mode():
            hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask[..., None].to(hidden)
        embeddings[batch.indices] = ((hidden * mask).sum(1) / mask.sum(1)).float().cpu()
    return torch.nn.functional.normalize(embeddings, dim=1)
