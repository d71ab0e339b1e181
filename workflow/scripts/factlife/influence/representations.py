"""Ranker that compares hidden states of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from factlife.config.influence import Representation
from factlife.influence.errors import InfluenceError
from factlife.influence.tokenized_texts import TokenizedText, batch_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rank_by_representation(
    model: PreTrainedModel,
    queries: Sequence[TokenizedText],
    documents: Sequence[TokenizedText],
    settings: Representation,
    *,
    pad: int,
    batch_tokens: int,
) -> np.ndarray:
    """Cosine similarity of hidden states of prompt and completion with those of documents, (queries, documents)."""
    query_vectors, document_vectors = (
        torch.nn.functional.normalize(hidden_states(model, texts, settings, pad=pad, batch_tokens=batch_tokens), dim=1)
        for texts in (queries, documents)
    )
    return (query_vectors @ document_vectors.T).cpu().numpy()


def hidden_states(
    model: PreTrainedModel, texts: Sequence[TokenizedText], settings: Representation, *, pad: int, batch_tokens: int
) -> Tensor:
    """One hidden state per text, (texts, d_model): the mean over its tokens, or that of its last token.

    Raises:
        InfluenceError: the model has no such layer.
    """
    states = torch.zeros(len(texts), model.config.hidden_size)
    for batch in batch_texts(texts, pad, batch_tokens, next(model.parameters()).device):
        with torch.inference_mode():
            layers = model.base_model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        if not -len(layers) <= settings.layer < len(layers):
            raise InfluenceError(f"the ranker's layer is {settings.layer}, but the model has {len(layers) - 1} blocks")
        hidden, mask = layers[settings.layer].float(), batch.attention_mask[..., None].float()
        lengths = batch.attention_mask.sum(1)
        if settings.pooling == "last":
            states[batch.indices] = hidden[torch.arange(len(hidden)), lengths - 1].cpu()
        else:
            states[batch.indices] = ((hidden * mask).sum(1) / lengths[:, None]).cpu()
    return states
