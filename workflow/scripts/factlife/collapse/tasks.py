"""Multiple-choice tasks of a generation, evaluated with lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from factlife.config.collapse import MultipleChoiceTask
from factlife.recall import harness
from factlife.world import World


def task_questions(task: MultipleChoiceTask, world: World, path: str | Path | None = None) -> pd.DataFrame:
    """The questions of a task, with the ``group`` of each: factual, reasoning or other.

    Args:
        task: settings of the task.
        world: source of the questions of kind ``world``, all of which are factual.
        path: folder of the unpacked archive, or the downloaded file.
    """
    if task.kind == "world":
        # At least 5 questions are examples, so that the test questions are the same for any number of shots.
        questions = harness.questions_from_world(world, num_fewshot=max(5, *task.num_fewshot)).assign(group="factual")
    else:
        if path is None:
            raise ValueError(f"a task of kind {task.kind} needs its file; pass its path")
        questions = pd.read_parquet(path) if task.dataset else harness.read_mmlu(path)
        questions = questions.assign(group=questions["subject"].map(harness.subject_group))
    if task.limit is not None:
        is_test = questions["split"] == "test"
        shuffled = questions.sample(frac=1, random_state=0).sort_index(key=lambda index: index.map(is_test))
        selected = shuffled.groupby(["subject", "split"]).head(task.limit).index
        questions = questions[(questions["split"] == "dev") | questions.index.isin(selected)].reset_index(drop=True)
    return questions


def evaluate_tasks(
    model: Any, tokenizer: Any, tasks: Mapping[str, tuple[MultipleChoiceTask, pd.DataFrame]]
) -> pd.DataFrame:
    """Evaluate all tasks with each scoring and number of shots.

    Args:
        model: model of the generation.
        tokenizer: its tokenizer.
        tasks: settings and ``task_questions`` by name.

    Returns:
        One row per task, scoring, number of shots and question: ``task, scoring, num_fewshot, question, subject, group,
        correct, correct_norm, prediction, confidence``.

    Raises:
        QuestionsError: a task scores letters, but the tokenizer does not know them.
    """
    tables = [pd.DataFrame(columns=_COLUMNS)]
    for name, (task, questions) in tasks.items():
        for scoring in task.scoring:
            unknown = tokenizer.unk_token_id
            if scoring == "letter" and unknown is not None and unknown in tokenizer("A B C D")["input_ids"]:
                raise harness.QuestionsError(
                    f"the tokenizer has no letters for collapse.tasks.{name}; set its `scoring` to [text]"
                )
            for num_fewshot in task.num_fewshot:
                with TemporaryDirectory() as folder:
                    table = harness.evaluate_questions(
                        model, tokenizer, questions, folder,
                        scoring=scoring, num_fewshot=num_fewshot, mmlu=task.kind == "mmlu", batch_size=task.batch_size,
                    )  # fmt: skip
                keys = {"task": name, "scoring": scoring, "num_fewshot": num_fewshot}
                tables.append(table.assign(**keys, question=range(len(table)))[_COLUMNS])
    return pd.concat(tables[1:] or tables, ignore_index=True)


_COLUMNS = [
    "task", "scoring", "num_fewshot", "question", "subject", "group", "correct", "correct_norm", "prediction", "confidence",
]  # fmt: skip
