"""Models retrained without some documents: what documents did, by taking them away."""

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
from factlife.config.models import Source, Training
from factlife.corpus import tokens
from factlife.influence.queries import label_relevance
from factlife.influence.retraining_metrics import RANDOM, RELEVANT
from factlife.influence.retrieval_metrics import rank_documents
from factlife.recall.score import score
from factlife.world.tables import World


@dataclass(frozen=True)
class RetrainingRun:
    """One model to be trained.

    Attributes:
        kind: ``full``, ``subset``, ``leave_one_out``, ``top_k_removal``.
        name: of what is left out: a subset's number, a document, a ranker.
        repeat: the seed of its weights and of the order in which it reads.
        removed_doc_ids: documents that are left out.
    """

    kind: str
    name: str
    repeat: int
    removed_doc_ids: tuple[str, ...]


def subset_runs(documents: Sequence[str], settings: RetrainedModels) -> list[RetrainingRun]:
    """The models that every ranker is judged by: on all documents, on random subsets, on all but one.

    Args:
        documents: ids of those that are ranked; others are always kept.
        settings: how many models, and on what.
    """
    rng = np.random.default_rng([settings.seed, 0])
    dropped = round(len(documents) * (1 - settings.subset_fraction))
    sets = {("full", ""): ()}
    for number in range(settings.subsets):
        sets["subset", str(number)] = tuple(documents[at] for at in sorted(rng.permutation(len(documents))[:dropped]))
    # Of their own seed: the same documents whatever the number of subsets.
    alone = np.random.default_rng([settings.seed, 2]).permutation(len(documents))[: settings.leave_one_out]
    for at in sorted(alone):
        sets["leave_one_out", documents[at]] = (documents[at],)
    return [RetrainingRun(*key, repeat, found) for key, found in sets.items() for repeat in range(settings.repeats)]


def top_k_removal_runs(
    ranker: str, scores: np.ndarray, documents: Sequence[str], settings: TopKRemoval
) -> list[RetrainingRun]:
    """Models without the documents that a ranker puts first for any query."""
    first = top_k_over_queries(scores, settings.k)
    dropped = tuple(documents[at] for at in sorted(first))
    return [RetrainingRun("top_k_removal", ranker, repeat, dropped) for repeat in range(settings.repeats)]


def control_removal_runs(
    queries: pd.DataFrame, documents: pd.DataFrame, world: World, settings: TopKRemoval
) -> list[RetrainingRun]:
    """Models without as many documents: chosen at random, and chosen at random among relevant ones, anew in each repeat."""
    rng = np.random.default_rng([settings.seed, 1])
    relevant = np.flatnonzero((label_relevance(queries, documents, world).distance >= 0).any(0))
    found = []
    for repeat in range(settings.repeats):
        for name, among in ((RANDOM, np.arange(len(documents))), (RELEVANT, relevant)):
            chosen = sorted(rng.permutation(among)[: settings.k])
            found.append(RetrainingRun("top_k_removal", name, repeat, tuple(documents["doc_id"].iloc[chosen])))
    return found


def top_k_over_queries(scores: np.ndarray, k: int) -> np.ndarray:
    """The k documents that all queries together put first: the first of every query, then the second of each, and so on.

    Only a query's own order counts, so that no query speaks louder than another.
    """
    ranked = rank_documents(scores)
    place = np.empty_like(ranked)
    np.put_along_axis(place, ranked, np.arange(ranked.shape[1])[None], 1)
    best = np.sort(place, axis=0)
    # Ties between documents of different queries: by their places for the queries that come next.
    return np.lexsort(best[::-1])[:k]


def retrain(
    arms: Iterable[RetrainingRun],
    source: Source,
    start: str | Path,
    documents: str | Path,
    training: Training,
    queries: pd.DataFrame,
    *,
    batch_tokens: int,
    device: str = "cpu",
) -> pd.DataFrame:
    """Train every model anew and ask it every query.

    Args:
        arms: the models.
        source: where their weights begin; new ones are drawn with the repeat's seed.
        start: folder of the tokenizer, or of the model that training goes on from.
        documents: folder of the tokenized corpus.
        training: as for the model that is attributed.
        queries: a table of ``queries.select_queries``.
        batch_tokens: tokens in a batch of queries; no score depends on it.
        device: where models are trained.

    Returns:
        One row a model: ``kind, name, repeat, removed_doc_ids, query_ids, loss_nats``, the last two lists of the same length.
    """
    table = tokens.read_tokens(documents)
    probes = queries.rename(columns={"completion": "target"})
    rows = []
    for arm in arms:
        kept = tokens.build_sequences(
            table[~table["doc_id"].isin(arm.removed_doc_ids)], max_length=training.max_length, packing=training.packing
        )
        model, tokenizer = models.begin(source, start, seed=arm.repeat, device=device)
        with tempfile.TemporaryDirectory() as folder:
            models.train(
                model, tokenizer, kept, training, seed=arm.repeat, output=f"{folder}/model", resume=f"{folder}/resume"
            )
        losses = score(model.eval(), tokenizer, probes, batch_tokens=batch_tokens)["loss_nats"]
        logging.info("%s %s, repeat %d: mean loss %.3f nats", arm.kind, arm.name, arm.repeat, losses.mean())
        rows.append({**arm.__dict__, "query_ids": queries["query_id"].tolist(), "loss_nats": losses.tolist()})
    return pd.DataFrame(rows)


def shard_runs(arms: Sequence[RetrainingRun], number: int, count: int) -> list[RetrainingRun]:
    """The share of the models that is one job's."""
    return list(arms[number::count])
