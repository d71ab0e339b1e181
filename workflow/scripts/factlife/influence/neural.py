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
from factlife.config.influence import Gradient, Loss, Representation
from factlife.influence import gradients, representations
from factlife.influence.texts import Text, of_documents, of_queries
from factlife.world.tables import World


def longest(model: Any) -> int:
    """Tokens that a model can read."""
    return getattr(model.config, "max_position_embeddings", None) or 2**31


def rank(
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
        queries: a table of ``queries.select``.
        documents: a table of ``queries.pool``.
        values: of all facts.
        batch_tokens: tokens in a batch; no score depends on it.
        device: where the model goes.
    """

    @functools.cache
    def load(checkpoint: int) -> tuple[Any, Any]:
        return models.load(models.checkpoints(folder)[checkpoint][1], device)

    def texts(model: Any, tokenizer: Any, loss: Loss, margin: bool) -> tuple[list[Text], list[Text]]:
        return (
            of_queries(queries, tokenizer, margin=margin),
            of_documents(documents, tokenizer, values, loss, longest=longest(model)),
        )

    if isinstance(settings, Gradient):
        both = functools.partial(texts, loss=settings.document_loss, margin=settings.query_loss == "margin")
        return gradients.rank(load, both, settings, queries["query_id"].tolist(), batch_tokens=batch_tokens)
    model, tokenizer = load(-1)
    asked, read = texts(model, tokenizer, "all", margin=False)
    return representations.rank(model, asked, read, settings, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens)


@dataclass(frozen=True)
class Prepared:
    """A model with the texts that it reads.

    Attributes:
        model: in eval mode, as is.
        pad: token that fills short texts.
        queries: prompt and completion.
        documents: with the tokens that count.
    """

    model: Any
    pad: int
    queries: list[Text]
    documents: list[Text]


def prepare(
    folder: str | Path,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    values: dict[str, str],
    loss: Loss,
    *,
    device: str = "cpu",
) -> Prepared:
    """The model in a folder, and queries and documents as it reads them; arguments as for ``rank``."""
    model, tokenizer = models.load(folder, device)
    read = of_documents(documents, tokenizer, values, loss, longest=longest(model))
    return Prepared(model, tokenizer.pad_token_id, of_queries(queries, tokenizer), read)


def values(world: World) -> dict[str, str]:
    """The value of each fact, as documents write it."""
    return dict(zip(world.facts["fact_id"], world.facts["value"], strict=True))


def check_training(manifest: Mapping[str, Any], corpus: str) -> None:
    """Warn in the log if a model's manifest says that it was not trained on a corpus."""
    trained = (manifest.get("params", {}).get("training") or {}).get("corpus")
    if trained != corpus:
        logging.warning(
            "the model was trained on %s, but documents of corpus `%s` are ranked: what it learnt did not come from them",
            f"corpus `{trained}`" if trained else "other texts, of which nothing is known here", corpus,
        )  # fmt: skip
