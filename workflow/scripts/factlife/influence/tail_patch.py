"""Tail-patch: change in the answer's probability after one more training step on a document (Chang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from factlife.config.influence import TailPatch
from factlife.config.training import Training
from factlife.influence.model_based import max_positions
from factlife.influence.retraining_metrics import RANDOM
from factlife.influence.retrieval_metrics import rank_documents
from factlife.influence.tokenized_texts import (
    TokenizedText,
    batch_texts,
    text_losses,
    tokenize_documents,
    tokenize_queries,
)
from factlife.models.optim import build_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run_tail_patch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scores: Mapping[str, np.ndarray],
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    settings: TailPatch,
    training: Training,
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Train for one step on the top documents of every ranker and query, and on random documents.

    Args:
        model: the trained model; it is unchanged afterwards.
        tokenizer: its tokenizer.
        scores: scores of each ranker, (queries, documents).
        queries: the result of ``queries.select_queries``.
        documents: the result of ``queries.select_documents``.
        settings: number of documents and size of the step.
        training: training settings of the model.
        batch_tokens: tokens in a batch of queries; no result depends on it.

    Returns:
        One row per ranker, query and document: ``ranker, query_id, doc_id, gain_nats``, the increase in log probability of
        the answer after the step.
    """
    selected = documents_to_patch(scores, len(queries), len(documents), settings)
    is_needed = np.zeros((len(queries), len(documents)), dtype=bool)
    for columns in selected.values():
        np.put_along_axis(is_needed, columns, True, 1)
    document_texts = tokenize_documents(documents, tokenizer, {}, "all_tokens", max_length=max_positions(model))
    gains = patch_gains(
        model, tokenize_queries(queries, tokenizer), document_texts, is_needed, training, settings.learning_rate_fraction,
        pad=tokenizer.pad_token_id, batch_tokens=batch_tokens,
    )  # fmt: skip
    parts = []
    for ranker, columns in selected.items():
        rows = np.repeat(np.arange(len(queries)), columns.shape[1])
        parts.append(pd.DataFrame({
            "ranker": ranker,
            "query_id": queries["query_id"].to_numpy()[rows],
            "doc_id": documents["doc_id"].to_numpy()[columns.ravel()],
            "gain_nats": gains[rows, columns.ravel()],
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def documents_to_patch(
    scores: Mapping[str, np.ndarray], n_queries: int, n_documents: int, settings: TailPatch
) -> dict[str, np.ndarray]:
    """Indices of the documents to train on for each query, (queries, k), by ranker; one set is random."""
    k, rng = min(settings.k, n_documents), np.random.default_rng(settings.seed)
    top_k = {ranker: rank_documents(matrix)[:, :k] for ranker, matrix in scores.items()}
    return top_k | {RANDOM: np.stack([rng.permutation(n_documents)[:k] for _ in range(n_queries)])}


def patch_gains(
    model: PreTrainedModel,
    queries: Sequence[TokenizedText],
    documents: Sequence[TokenizedText],
    is_needed: np.ndarray,
    training: Training,
    learning_rate_fraction: float,
    *,
    pad: int,
    batch_tokens: int,
) -> np.ndarray:
    """Increase in each query's log probability after a step on each document, in nats, (queries, documents).

    Pairs that are not needed are NaN. The step uses the model's own optimizer, with moments reset to zero, and the mean loss
    over the document's tokens.
    """
    gains, device = np.full(is_needed.shape, np.nan), next(model.parameters()).device
    losses_before = _losses(model, queries, np.arange(len(queries)), pad, batch_tokens)
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    learning_rates = {
        name: learning_rate_fraction * getattr(training, name) for name in ("learning_rate", "muon_learning_rate")
    }
    for i in np.flatnonzero(is_needed.any(0)):
        step_optimizer = build_optimizer(model, training.model_copy(update=learning_rates))
        (batch,) = batch_texts([documents[int(i)]], pad, batch_tokens, device)
        (text_losses(model, batch).sum() / max(1, len(documents[int(i)].scored_positions))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        step_optimizer.step()
        step_optimizer.zero_grad()
        rows = np.flatnonzero(is_needed[:, i])
        gains[rows, i] = losses_before[rows] - _losses(model, queries, rows, pad, batch_tokens)
        model.load_state_dict(state)
    return gains


def _losses(
    model: PreTrainedModel, queries: Sequence[TokenizedText], rows: np.ndarray, pad: int, batch_tokens: int
) -> np.ndarray:
    losses = np.zeros(len(rows))
    texts = [queries[row] for row in rows]
    with torch.inference_mode():
        for batch in batch_texts(texts, pad, batch_tokens, next(model.parameters()).device):
            losses[batch.indices] = text_losses(model, batch).double().cpu().numpy()
    return losses
