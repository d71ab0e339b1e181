"""Tail-patch: what one more training step on a document does to an answer (Chang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from factlife.config.influence import TailPatch
from factlife.config.models import Training
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
from factlife.models.optim import optimizer


def run_tail_patch(
    model: Any,
    tokenizer: Any,
    scores: Mapping[str, np.ndarray],
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    settings: TailPatch,
    training: Training,
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Patch a model with the first documents of every ranker and query, and with random ones.

    Args:
        model: fully trained; it comes back as it was.
        tokenizer: its tokenizer.
        scores: of each ranker, (queries, documents).
        queries: a table of ``queries.select_queries``.
        documents: a table of ``queries.select_documents``.
        settings: how many documents, and how large a step.
        training: as the model was trained.
        batch_tokens: tokens in a batch of queries; no figure depends on it.

    Returns:
        One row for each ranker, query and document: ``ranker, query_id, doc_id, gain_nats``, by how much the step raises the
        log probability of the answer.
    """
    first = documents_to_patch(scores, len(queries), len(documents), settings)
    wanted = np.zeros((len(queries), len(documents)), dtype=bool)
    for chosen in first.values():
        np.put_along_axis(wanted, chosen, True, 1)
    read = tokenize_documents(documents, tokenizer, {}, "all_tokens", longest=max_positions(model))
    found = patch_gains(
        model, tokenize_queries(queries, tokenizer), read, wanted, training, settings.learning_rate_fraction,
        pad=tokenizer.pad_token_id, batch_tokens=batch_tokens,
    )  # fmt: skip
    parts = []
    for ranker, chosen in first.items():
        rows = np.repeat(np.arange(len(queries)), chosen.shape[1])
        parts.append(pd.DataFrame({
            "ranker": ranker,
            "query_id": queries["query_id"].to_numpy()[rows],
            "doc_id": documents["doc_id"].to_numpy()[chosen.ravel()],
            "gain_nats": found[rows, chosen.ravel()],
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def documents_to_patch(
    scores: Mapping[str, np.ndarray], queries: int, documents: int, settings: TailPatch
) -> dict[str, np.ndarray]:
    """For each ranker, and for random documents, which documents are patched for each query, (queries, k)."""
    k, rng = min(settings.k, documents), np.random.default_rng(settings.seed)
    found = {ranker: rank_documents(matrix)[:, :k] for ranker, matrix in scores.items()}
    return found | {RANDOM: np.stack([rng.permutation(documents)[:k] for _ in range(queries)])}


def patch_gains(
    model: Any,
    queries: Sequence[TokenizedText],
    documents: Sequence[TokenizedText],
    wanted: np.ndarray,
    training: Training,
    rate: float,
    *,
    pad: int,
    batch_tokens: int,
) -> np.ndarray:
    """Rise of each query's log probability by a step on each document, in nats, (queries, documents); NaN where not wanted.

    The step is one of the model's own optimizer, whose moments begin at rest, on the document's mean loss over its tokens.
    """
    found, device = np.full(wanted.shape, np.nan), next(model.parameters()).device
    before = _losses(model, queries, np.arange(len(queries)), pad, batch_tokens)
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    rates = {name: rate * getattr(training, name) for name in ("learning_rate", "muon_learning_rate")}
    for number in np.flatnonzero(wanted.any(0)):
        step = optimizer(model, training.model_copy(update=rates))
        (batch,) = batch_texts([documents[number]], pad, batch_tokens, device)
        (text_losses(model, batch).sum() / max(1, len(documents[number].scored_positions))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        step.step()
        step.zero_grad()
        asked = np.flatnonzero(wanted[:, number])
        found[asked, number] = before[asked] - _losses(model, queries, asked, pad, batch_tokens)
        model.load_state_dict(state)
    return found


def _losses(model: Any, queries: Sequence[TokenizedText], asked: np.ndarray, pad: int, batch_tokens: int) -> np.ndarray:
    found = np.zeros(len(asked))
    some = [queries[number] for number in asked]
    with torch.inference_mode():
        for batch in batch_texts(some, pad, batch_tokens, next(model.parameters()).device):
            found[batch.indices] = text_losses(model, batch).double().cpu().numpy()
    return found
