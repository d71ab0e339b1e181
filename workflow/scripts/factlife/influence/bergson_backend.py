"""Rankers of Bergson: TrackStar, EK-FAC, TRAK, or inner products of gradients."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bergson.build import build_query
from bergson.cli.trackstar import trackstar
from bergson.cli.trak import trak
from bergson.config.config import (
    DataConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    InversionConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
    TrackstarConfig,
    TrakConfig,
)
from bergson.data import load_scores
from bergson.hessians.pipeline import hessian_pipeline
from bergson.score.score import score_dataset

from factlife.config.influence import Bergson
from factlife.influence.errors import InfluenceError
from factlife.influence.model_based import RankingInputs, max_positions
from factlife.influence.tokenized_texts import TokenizedText

_IGNORE_INDEX = -100


def rank_with_bergson(model: str | Path, inputs: RankingInputs, settings: Bergson, *, batch_tokens: int) -> np.ndarray:
    """Scores, (queries, documents), from the weights of linear layers inside the blocks, without biases.

    ``trackstar`` (Chang et al. 2024) and ``trak`` (Park et al. 2023) use random projections of weight gradients.
    ``trackstar`` also multiplies them by the inverse square root of their second moment and normalises them to unit length.

    Args:
        model: folder of the model.
        inputs: tokenized queries and documents; the loss of a query is its cross-entropy.
        settings: settings of the ranker.
        batch_tokens: tokens in a batch, capped at the model's maximum length as Bergson requires.

    Raises:
        InfluenceError: scores are not finite, or all documents have the same score for a query, as with no scored token.
    """
    with tempfile.TemporaryDirectory() as folder:
        scores = _scores(Path(model), inputs, settings, min(batch_tokens, max_positions(inputs.model)), Path(folder))
    if not np.isfinite(scores).all():
        raise InfluenceError("Bergson's scores are not finite; raise `damping_factor`, or lower `projection_dim`")
    if (is_constant := np.ptp(scores, axis=1) == 0).any():
        raise InfluenceError(f"Bergson gives all documents the same score for query {int(is_constant.argmax())}")
    return scores


def _scores(model: Path, inputs: RankingInputs, settings: Bergson, batch_tokens: int, folder: Path) -> np.ndarray:
    query_path = _write(inputs.queries, folder / "queries.jsonl")
    document_path = _write(inputs.documents, folder / "documents.jsonl")
    index_settings: dict[str, Any] = {
        "run_path": str(folder / "run"),
        "model": str(model),
        "data": DataConfig(dataset=document_path),
        "token_batch_size": batch_tokens,
        "projection_dim": settings.projection_dim,
        "overwrite": True,
    }
    query = QuerySetConfig(dataset=query_path)
    inversion = InversionConfig(damping_factor=settings.damping_factor)
    match settings.method:
        case "trackstar":
            preprocess = PreprocessConfig(unit_normalize=True, inversion_cfg=inversion)
            trackstar(IndexConfig(**index_settings), TrackstarConfig(query=query, preprocess_cfg=preprocess))
            score_path = folder / "run/scores"
        case "trak":
            trak(IndexConfig(**index_settings, loss_fn="log_odds", projection_target="global"), TrakConfig(query=query))
            score_path = folder / "run/scores"
        case "ekfac":
            hessian_pipeline(
                IndexConfig(**index_settings), HessianConfig(method="kfac", ev_correction=True), ScoreConfig(), PreprocessConfig(),
                HessianPipelineConfig(query=query, inversion_cfg=inversion),
            )  # fmt: skip
            score_path = folder / "run/scores"
        case "dot":
            index_settings["include_bias"] = True
            build_query(IndexConfig(**index_settings | {"run_path": str(folder / "query")}), query, PreprocessConfig())
            score_dataset(
                IndexConfig(**index_settings), ScoreConfig(query_path=str(folder / "query")), PreprocessConfig()
            )
            score_path = folder / "run"
    return np.array(load_scores(score_path)[:], dtype=np.float32).T


def _write(texts: Sequence[TokenizedText], path: Path) -> str:
    """Write tokens and labels, since Bergson may silently miss the completion when it tokenizes prompts itself."""
    with path.open("w") as file:
        for text in texts:
            labels = [_IGNORE_INDEX] * len(text.input_ids)
            for position in text.scored_positions:
                labels[position] = text.input_ids[position]
            input_ids = list(map(int, text.input_ids))
            file.write(
                json.dumps({"input_ids": input_ids, "labels": list(map(int, labels)), "length": len(input_ids)}) + "\n"
            )
    return str(path)
