"""Retrain models without some documents, to measure the effect of the removed documents."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from factlife import models
from factlife.config.influence import RetrainedModels, TopKRemoval
from factlife.config.training import Source, Training
from factlife.corpus import tokens
from factlife.influence.queries import label_relevance
from factlife.influence.retraining_metrics import RANDOM, RELEVANT
from factlife.influence.retrieval_metrics import rank_documents
from factlife.recall.score import score_probes
from factlife.world.tables import World


@dataclass(frozen=True)
class RetrainingRun:
    """One model to train.

    Attributes:
        kind: ``full``, ``subset``, ``leave_one_out`` or ``top_k_removal``.
        name: name of the removed set: number of the subset, document id, or ranker.
        repeat: seed of the weights and of the data order.
        removed_doc_ids: documents to leave out.
    """

    kind: str
    name: str
    repeat: int
    removed_doc_ids: tuple[str, ...]


def subset_runs(documents: Sequence[str], settings: RetrainedModels) -> list[RetrainingRun]:
    """Models for the evaluation of all rankers: trained on all documents, on random subsets, and on all but one document.

    Args:
        documents: ids of the ranked documents; all others are always kept.
        settings: number of models and size of the subsets.
    """
    rng = np.random.default_rng([settings.seed, 0])
    n_removed = round(len(documents) * (1 - settings.subset_fraction))
    removed: dict[tuple[str, str], tuple[str, ...]] = {("full", ""): ()}
    for i in range(settings.subsets):
        rows = sorted(rng.permutation(len(documents))[:n_removed])
        removed["subset", str(i)] = tuple(documents[row] for row in rows)
    # A separate seed keeps these documents the same for any number of subsets.
    left_out = np.random.default_rng([settings.seed, 2]).permutation(len(documents))[: settings.leave_one_out]
    for row in sorted(left_out):
        removed["leave_one_out", documents[row]] = (documents[row],)
    return [
        RetrainingRun(*key, repeat, doc_ids) for key, doc_ids in removed.items() for repeat in range(settings.repeats)
    ]


def top_k_removal_runs(
    ranker: str, scores: np.ndarray, documents: Sequence[str], settings: TopKRemoval
) -> list[RetrainingRun]:
    """Models trained without the top documents of a ranker."""
    doc_ids = tuple(documents[row] for row in sorted(top_k_over_queries(scores, settings.k)))
    return [RetrainingRun("top_k_removal", ranker, repeat, doc_ids) for repeat in range(settings.repeats)]


def control_removal_runs(
    queries: pd.DataFrame, documents: pd.DataFrame, world: World, settings: TopKRemoval
) -> list[RetrainingRun]:
    """Models trained without k random documents and without k random relevant documents, drawn anew in each repeat."""
    rng = np.random.default_rng([settings.seed, 1])
    relevant = np.flatnonzero((label_relevance(queries, documents, world).distance >= 0).any(0))
    runs = []
    for repeat in range(settings.repeats):
        for name, candidates in ((RANDOM, np.arange(len(documents))), (RELEVANT, relevant)):
            rows = sorted(rng.permutation(candidates)[: settings.k])
            runs.append(RetrainingRun("top_k_removal", name, repeat, tuple(documents["doc_id"].iloc[rows])))
    return runs


def top_k_over_queries(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of k documents: the top document of every query, then every second one, and so on.

    Only the order within a query matters, so that all queries have the same weight.
    """
    order = rank_documents(scores)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], 1)
    best_ranks = np.sort(ranks, axis=0)
    # Documents with the same best rank are ordered by their second-best rank, and so on.
    return np.lexsort(best_ranks[::-1])[:k]


def retrain(
    runs: Iterable[RetrainingRun],
    source: Source,
    start: str | Path,
    documents: str | Path,
    training: Training,
    queries: pd.DataFrame,
    *,
    batch_tokens: int,
    device: str = "cpu",
) -> pd.DataFrame:
    """Train one model per run and compute its loss on every query.

    Args:
        runs: the models to train.
        source: source of the initial weights; new weights are initialised with the seed of the repeat.
        start: folder of the tokenizer, or of the model to continue from.
        documents: folder of the tokenized corpus.
        training: training settings of the original model.
        queries: the result of ``queries.select_queries``.
        batch_tokens: tokens in a batch of queries; no score depends on it.
        device: device for training.

    Returns:
        One row per model: ``kind, name, repeat, removed_doc_ids, query_ids, loss_nats``; the last two are parallel lists.
    """
    tokenized = tokens.read_tokens(documents)
    probes = queries.rename(columns={"completion": "target"})
    rows = []
    for run in runs:
        sequences = tokens.build_sequences(
            tokenized[~tokenized["doc_id"].isin(run.removed_doc_ids)],
            max_length=training.max_length,
            packing=training.packing,
        )
        model, tokenizer = models.load_initial_model(source, start, seed=run.repeat, device=device)
        with tempfile.TemporaryDirectory() as folder:
            models.train_model(
                model,
                tokenizer,
                sequences,
                training,
                seed=run.repeat,
                output=f"{folder}/model",
                resume=f"{folder}/resume",
            )
        losses = score_probes(model.eval(), tokenizer, probes, batch_tokens=batch_tokens)["loss_nats"]
        logging.info("%s %s, repeat %d: mean loss %.3f nats", run.kind, run.name, run.repeat, losses.mean())
        rows.append({**run.__dict__, "query_ids": queries["query_id"].tolist(), "loss_nats": losses.tolist()})
    return pd.DataFrame(rows)


def shard_runs(runs: Sequence[RetrainingRun], shard: int, n_shards: int) -> list[RetrainingRun]:
    """The runs of one shard."""
    return list(runs[shard::n_shards])
