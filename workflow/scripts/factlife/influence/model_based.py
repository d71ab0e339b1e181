"""Rankers that run a model: representations and gradients."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from factlife import models
from factlife.config.influence import DocumentLoss, Gradient, Representation
from factlife.influence import gradients, representations
from factlife.influence.tokenized_texts import TokenizedText, tokenize_documents, tokenize_queries
from factlife.world.tables import World


def max_positions(model: Any) -> int:
    """Tokens that a model can read."""
    return getattr(model.config, "max_position_embeddings", None) or 2**31


def rank_by_model(
    settings: Representation | Gradient,
    folder: str | Path,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    values: dict[str, str],
    *,
    batch_tokens: int,
    device: str = "cpu",
) -> np.ndarray:
    """Scores, (queries, documents), of a ranker that runs the model in a folder.

    Args:
        settings: the ranker.
        folder: of the model; its checkpoints are used where the ranker asks for them.
        queries: a table of ``queries.select_queries``.
        documents: a table of ``queries.select_documents``.
        values: of all facts.
        batch_tokens: tokens in a batch; no score depends on it.
        device: where the model goes.
    """

    @functools.cache
    def load(checkpoint: int) -> tuple[Any, Any]:
        return models.load(models.checkpoints(folder)[checkpoint][1], device)

    def texts(
        model: Any, tokenizer: Any, loss: DocumentLoss, margin: bool
    ) -> tuple[list[TokenizedText], list[TokenizedText]]:
        return (
            tokenize_queries(queries, tokenizer, margin=margin),
            tokenize_documents(documents, tokenizer, values, loss, longest=max_positions(model)),
        )

    if isinstance(settings, Gradient):
        both = functools.partial(texts, loss=settings.document_loss, margin=settings.query_loss == "margin")
        return gradients.rank_by_gradient(load, both, settings, queries["query_id"].tolist(), batch_tokens=batch_tokens)
    model, tokenizer = load(-1)
    asked, read = texts(model, tokenizer, "all_tokens", margin=False)
    return representations.rank_by_representation(
        model, asked, read, settings, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens
    )


@dataclass(frozen=True)
class RankingInputs:
    """A model with the texts that it reads.

    Attributes:
        model: in eval mode, as is.
        pad: token that fills short texts.
        queries: prompt and completion.
        documents: with the tokens that count.
    """

    model: Any
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
    """The model in a folder, and queries and documents as it reads them; arguments as for ``rank``."""
    model, tokenizer = models.load(folder, device)
    read = tokenize_documents(documents, tokenizer, values, loss, longest=max_positions(model))
    return RankingInputs(model, tokenizer.pad_token_id, tokenize_queries(queries, tokenizer), read)


def fact_values(world: World) -> dict[str, str]:
    """The value of each fact, as documents write it."""
    return dict(zip(world.facts["fact_id"], world.facts["value"], strict=True))


def warn_if_trained_elsewhere(manifest: Mapping[str, Any], corpus: str) -> None:
    """Warn in the log if a model's manifest says that it was not trained on a corpus."""
    trained = (manifest.get("params", {}).get("training") or {}).get("corpus")
    if trained != corpus:
        logging.warning(
            "the model was trained on %s, but documents of corpus `%s` are ranked: what it learnt did not come from them",
            f"corpus `{trained}`" if trained else "other texts, of which nothing is known here", corpus,
        )  # fmt: skip
