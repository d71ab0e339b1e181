"""Rankers that run the model itself, with hidden states or gradients, and the inputs that backends share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from factlife import models
from factlife.config.influence import CustomRanker, DocumentLoss, Gradient, Representation
from factlife.influence import gradients, representations
from factlife.influence.tokenized_texts import TokenizedText, tokenize_documents, tokenize_queries
from factlife.world.tables import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def max_positions(model: PreTrainedModel) -> int:
    """Number of tokens that a model can read."""
    return getattr(model.config, "max_position_embeddings", None) or 2**31


def rank_by_model(
    settings: Representation | Gradient | CustomRanker,
    folder: str | Path,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    values: dict[str, str],
    *,
    batch_tokens: int,
    device: str = "cpu",
) -> np.ndarray:
    """Scores, (queries, documents), of a ranker that runs the model.

    Args:
        settings: settings of the ranker.
        folder: folder of the model and its checkpoints.
        queries: the result of ``queries.select_queries``.
        documents: the result of ``queries.select_documents``.
        values: the value of each fact, by fact id.
        batch_tokens: tokens in a batch; no score depends on it.
        device: device of the model.
    """

    @functools.cache
    def load(checkpoint: int) -> tuple[Any, Any]:
        return models.load_model(models.list_checkpoints(folder)[checkpoint][1], device)

    def tokenize(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, loss: DocumentLoss, margin: bool
    ) -> tuple[list[TokenizedText], list[TokenizedText]]:
        return (
            tokenize_queries(queries, tokenizer, margin=margin),
            tokenize_documents(documents, tokenizer, values, loss, max_length=max_positions(model)),
        )

    if isinstance(settings, CustomRanker):
        model, tokenizer = load(-1)
        return settings.rank(queries, documents, model=model, tokenizer=tokenizer)
    if isinstance(settings, Gradient):
        tokenize_for_loss = functools.partial(
            tokenize, loss=settings.document_loss, margin=settings.query_loss == "margin"
        )
        return gradients.rank_by_gradient(
            load, tokenize_for_loss, settings, queries["query_id"].tolist(), batch_tokens=batch_tokens
        )
    model, tokenizer = load(-1)
    query_texts, document_texts = tokenize(model, tokenizer, "all_tokens", margin=False)
    return representations.rank_by_representation(
        model, query_texts, document_texts, settings, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens
    )


@dataclass(frozen=True)
class RankingInputs:
    """A model with tokenized queries and documents.

    Attributes:
        model: the model in eval mode.
        pad: id of the padding token.
        queries: prompts with completions.
        documents: documents with the positions whose loss counts.
    """

    model: PreTrainedModel
    pad: int
    queries: list[TokenizedText]
    documents: list[TokenizedText]


def load_ranking_inputs(
    folder: str | Path,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    values: dict[str, str],
    loss: DocumentLoss,
    *,
    device: str = "cpu",
) -> RankingInputs:
    """Load a model and tokenize queries and documents.

    Args:
        folder: folder of the model.
        queries: the result of ``queries.select_queries``.
        documents: the result of ``queries.select_documents``.
        values: the value of each fact, by fact id.
        loss: document tokens whose loss counts.
        device: device of the model.
    """
    model, tokenizer = models.load_model(folder, device)
    document_texts = tokenize_documents(documents, tokenizer, values, loss, max_length=max_positions(model))
    return RankingInputs(model, tokenizer.pad_token_id, tokenize_queries(queries, tokenizer), document_texts)


def fact_values(world: World) -> dict[str, str]:
    """The value of each fact, as written in documents, by fact id."""
    return dict(zip(world.facts["fact_id"], world.facts["value"], strict=True))


def warn_if_trained_elsewhere(manifest: Mapping[str, Any], corpus: str) -> None:
    """Log a warning if a model's manifest says that it was trained on another corpus."""
    training_corpus = (manifest.get("params", {}).get("training") or {}).get("corpus")
    if training_corpus != corpus:
        logging.warning(
            "the model was trained on %s, but documents of corpus `%s` are ranked: it did not learn from them",
            f"corpus `{training_corpus}`" if training_corpus else "unknown texts", corpus,
        )  # fmt: skip
