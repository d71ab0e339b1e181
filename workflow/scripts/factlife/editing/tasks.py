"""Downstream tasks, through lm-evaluation-harness: those it knows, and one made from a world."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import pandas as pd

from factlife.editing.editable import Deltas, apply_deltas
from factlife.recall import harness
from factlife.world import World


def evaluate_tasks(
    model: Any, tokenizer: Any, deltas: Deltas, measures: pd.DataFrame, tasks: Sequence[str], *, world: World
) -> pd.DataFrame:
    """Ask all questions before and after.

    Args:
        model: unedited; its weights have the same bits when this returns.
        tokenizer: its tokenizer.
        deltas: what an editor changed.
        measures: of the editor's run, whose keys the answers get.
        tasks: names of the harness, or ``world``.
        world: from which questions are made; those about facts, so that edited ones are asked for their old value.

    Returns:
        One row per phase and question, with the columns of ``measures``: ``metric`` is ``task_`` and the task's name,
        ``value`` whether the question was answered rightly (by log probability per character where the task has it).
    """
    last = measures[measures["phase"] == "end"]["n_edits"].max()
    keys = measures.drop_duplicates("phase")[["model", "seed", "editor", "schedule", "phase"]]
    parts = [_answers(model, tokenizer, tasks, world).assign(phase="pre", n_edits=0)]
    with apply_deltas(model, deltas):
        parts.append(_answers(model, tokenizer, tasks, world).assign(phase="end", n_edits=last))
    return pd.concat(parts).merge(keys, on="phase")[list(measures.columns)]


def _answers(model: Any, tokenizer: Any, tasks: Sequence[str], world: World) -> pd.DataFrame:
    parts = []
    if "world" in tasks:
        with tempfile.TemporaryDirectory() as folder:
            found = harness.evaluate_questions(
                model, tokenizer, harness.questions_from_world(world, num_fewshot=0), folder
            )
        parts.append(("world", found["fact_id"], found["correct_norm"]))
    if named := [task for task in tasks if task != "world"]:
        for task, found in harness.run_tasks(model, tokenizer, named).items():
            parts.append((task, found.index.astype(str), found["correct_norm"]))
    return pd.concat(
        pd.DataFrame({"metric": f"task_{task}", "item": items, "value": right.astype(float), "weight": 1.0})
        for task, items, right in parts
    )
