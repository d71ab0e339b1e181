"""Scoring all probes at all checkpoints of a model. The package's other functions need no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from factlife.models import load_model
from factlife.recall.score import entropy_nats, score_probes
from factlife.world import World

COLUMNS = [
    "model", "seed", "step", "exposures", "probe_id", "fact_id", "relation", "kind", "first_token_correct", "exact_match",
    "generation_match", "loss_nats", "rank", "candidate_probability",
]  # fmt: skip


def evaluate_checkpoints(
    checkpoints: Iterable[tuple[int, str | Path]],
    world: World,
    exposures: pd.DataFrame,
    *,
    model: str,
    seed: int,
    batch_tokens: int,
    device: str = "cpu",
) -> pd.DataFrame:
    """Score all probes at all checkpoints.

    Args:
        checkpoints: step and folder of each checkpoint.
        world: world with the probes.
        exposures: how often each fact had been stated at each step, columns ``step, fact_id, exposures``.
        model: name of the model, for the table.
        seed: seed of the model, for the table.
        batch_tokens: tokens per batch; scores do not depend on it.
        device: device of the model.

    Returns:
        One row per step and probe: ``COLUMNS``, the other columns of ``score_probes``, the entropy of the relation's
        values (``no_knowledge_nats``), 1 / number of candidates (``chance``) and the subject's relative frequency in
        the world (``frequency``).
    """
    facts = world.facts.set_index("fact_id")
    probes = world.probes.join(facts[["relation", "exposures"]], on="fact_id").rename(
        columns={"exposures": "frequency"}
    )
    no_knowledge = world.facts.groupby("relation")["value"].apply(entropy_nats)
    # The value of the last supporting fact is the target, for any number of hops.
    answer_relations = probes["supporting_fact_ids"].str[-1].map(facts["relation"])
    probes["no_knowledge_nats"] = answer_relations.map(no_knowledge).where(probes["kind"] != "reverse")
    probes["chance"] = 1 / probes["candidates"].str.len().where(lambda count: count > 0)
    exposures_by_step = exposures.set_index(["step", "fact_id"])["exposures"]
    tables = []
    for step, folder in checkpoints:
        loaded_model, tokenizer = load_model(folder, device)
        scores = score_probes(loaded_model, tokenizer, probes, batch_tokens=batch_tokens)
        if n_unrepresentable := int((~scores["representable"]).sum()):
            logging.warning(
                "%s: the tokenizer cannot encode the targets of %d probes; their scores are null",
                folder,
                n_unrepresentable,
            )
        exposures_now = (
            exposures_by_step.loc[step] if step in exposures_by_step.index.get_level_values(0) else pd.Series(dtype=int)
        )
        table = pd.concat([probes.reset_index(drop=True), scores], axis=1)
        table = table.assign(
            model=model,
            seed=seed,
            step=step,
            n_parameters=loaded_model.num_parameters(),
            exposures=table["fact_id"].map(exposures_now).fillna(0).astype(int),
        )
        logging.info(
            "step %s: forward exact match %.3f",
            step,
            table.loc[table["kind"] == "forward", "exact_match"].astype(float).mean(),
        )
        tables.append(table.drop(columns=["prompt", "candidates", "supporting_fact_ids"]))
    frame = pd.concat(tables, ignore_index=True)
    return frame[[*COLUMNS, *(column for column in frame.columns if column not in COLUMNS)]]
