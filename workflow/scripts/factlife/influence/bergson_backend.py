"""Influence through Bergson: TrackStar, EK-FAC, TRAK, or plain products of gradients."""

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

_NO_LOSS = -100


def rank_with_bergson(
    model: str | Path, prepared: RankingInputs, settings: Bergson, *, batch_tokens: int
) -> np.ndarray:
    """Scores, (queries, documents), over the weights of linear maps inside the blocks, without biases.

    ``trackstar`` (Chang et al. 2024) and ``trak`` (Park et al. 2023) project each weight's gradient at random;
    ``trackstar`` then makes it a unit vector after the inverse root of its second moment.

    Args:
        model: folder of the model.
        prepared: the texts as it reads them; a query's loss is its cross-entropy.
        settings: of Bergson.
        batch_tokens: tokens in a batch, at most as many as the model reads, since Bergson takes no larger batch.

    Raises:
        InfluenceError: scores are not finite, or those of a query are all alike, as where its loss counts no token.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _scores(Path(model), prepared, settings, min(batch_tokens, max_positions(prepared.model)), Path(folder))
    if not np.isfinite(found).all():
        raise InfluenceError("Bergson's scores are not finite; raise `damping_factor`, or lower `projection_dim`")
    if (flat := np.ptp(found, axis=1) == 0).any():
        raise InfluenceError(f"Bergson scores all documents alike for query number {int(flat.argmax())}")
    return found


def _scores(model: Path, prepared: RankingInputs, settings: Bergson, batch_tokens: int, folder: Path) -> np.ndarray:
    asked = _write(prepared.queries, folder / "queries.jsonl")
    read = _write(prepared.documents, folder / "documents.jsonl")
    shared: dict[str, Any] = {
        "run_path": str(folder / "run"),
        "model": str(model),
        "data": DataConfig(dataset=read),
        "token_batch_size": batch_tokens,
        "projection_dim": settings.projection_dim,
        "overwrite": True,
    }
    query = QuerySetConfig(dataset=asked)
    inversion = InversionConfig(damping_factor=settings.damping_factor)
    match settings.method:
        case "trackstar":
            preprocess = PreprocessConfig(unit_normalize=True, inversion_cfg=inversion)
            trackstar(IndexConfig(**shared), TrackstarConfig(query=query, preprocess_cfg=preprocess))
            scores = folder / "run/scores"
        case "trak":
            trak(IndexConfig(**shared, loss_fn="log_odds", projection_target="global"), TrakConfig(query=query))
            scores = folder / "run/scores"
        case "ekfac":
            hessian_pipeline(
                IndexConfig(**shared), HessianConfig(method="kfac", ev_correction=True), ScoreConfig(), PreprocessConfig(),
                HessianPipelineConfig(query=query, inversion_cfg=inversion),
            )  # fmt: skip
            scores = folder / "run/scores"
        case "dot":
            shared["include_bias"] = True
            build_query(IndexConfig(**shared | {"run_path": str(folder / "query")}), query, PreprocessConfig())
            score_dataset(IndexConfig(**shared), ScoreConfig(query_path=str(folder / "query")), PreprocessConfig())
            scores = folder / "run"
    return np.array(load_scores(scores)[:], dtype=np.float32).T


def _write(texts: Sequence[TokenizedText], path: Path) -> str:
    """Tokens with labels, so that Bergson neither tokenizes nor looks for the completion, which it may silently miss."""
    with path.open("w") as file:
        for text in texts:
            labels = [_NO_LOSS] * len(text.ids)
            for at in text.scored_positions:
                labels[at] = text.ids[at]
            ids = list(map(int, text.ids))
            file.write(json.dumps({"input_ids": ids, "labels": list(map(int, labels)), "length": len(ids)}) + "\n")
    return str(path)
