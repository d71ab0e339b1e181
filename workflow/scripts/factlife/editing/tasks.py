"""Downstream tasks through lm-evaluation-harness: tasks of the harness, and one made from a world."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from factlife.editing.editable import Deltas, apply_deltas
from factlife.editing.requests import EditError
from factlife.recall import harness
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    deltas: Deltas,
    metrics: pd.DataFrame,
    tasks: Sequence[str],
    *,
    world: World | None,
) -> pd.DataFrame:
    """Answer all questions before and after editing.

    Args:
        model: unedited; its weights have the same bits when this returns.
        tokenizer: its tokenizer.
        deltas: the changes of an editor.
        metrics: of the editor's run; the answers get the same keys.
        tasks: names of the harness, or ``world``.
        world: source of the ``world`` task, whose questions ask for the old values of edited facts; None without this task.

    Returns:
        One row per phase and question, with the columns of ``metrics``: ``metric`` is ``task_`` and the task's name,
        ``value`` whether the answer is correct (by log probability per character where the task has it).
    """
    n_edits = metrics[metrics["phase"] == "end"]["n_edits"].max()
    keys = metrics.drop_duplicates("phase")[["model", "seed", "editor", "schedule", "phase"]]
    parts = [_answers(model, tokenizer, tasks, world).assign(phase="pre", n_edits=0)]
    with apply_deltas(model, deltas):
        parts.append(_answers(model, tokenizer, tasks, world).assign(phase="end", n_edits=n_edits))
    return pd.concat(parts).merge(keys, on="phase")[list(metrics.columns)]


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], world: World | None
) -> pd.DataFrame:
    parts = []
    if "world" in tasks:
        if world is None:
            raise EditError("the task `world` needs a world; pass one")
        with tempfile.TemporaryDirectory() as folder:
            results = harness.evaluate_questions(
                model, tokenizer, harness.questions_from_world(world, num_fewshot=0), folder
            )
        parts.append(("world", results["fact_id"], results["correct_norm"]))
    if harness_tasks := [task for task in tasks if task != "world"]:
        for task, results in harness.run_tasks(model, tokenizer, harness_tasks).items():
            parts.append((task, results.index.astype(str), results["correct_norm"]))
    return pd.concat(
        pd.DataFrame({"metric": f"task_{task}", "item": items, "value": is_correct.astype(float), "weight": 1.0})
        for task, items, is_correct in parts
    )
