"""Multiple-choice tests through lm-evaluation-harness: MMLU, similar tasks, and questions generated from worlds."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = ["subject", "split", "question", "choices", "answer"]
_LETTERS = "ABCDEFGH"

# Reasoning subjects need a derivation, factual ones need knowledge; the other subjects of MMLU are in neither group.
REASONING = [
    "abstract_algebra", "college_mathematics", "elementary_mathematics", "high_school_mathematics",
    "high_school_statistics", "formal_logic", "logical_fallacies", "college_physics", "conceptual_physics",
    "high_school_physics", "econometrics", "machine_learning", "moral_scenarios", "college_computer_science",
    "high_school_computer_science", "electrical_engineering",
]  # fmt: skip
FACTUAL = [
    "anatomy", "astronomy", "college_biology", "college_medicine", "clinical_knowledge", "global_facts",
    "high_school_biology", "high_school_european_history", "high_school_geography",
    "high_school_government_and_politics", "high_school_us_history", "high_school_world_history", "human_aging",
    "human_sexuality", "international_law", "jurisprudence", "management", "marketing", "medical_genetics",
    "miscellaneous", "nutrition", "prehistory", "professional_medicine", "public_relations", "sociology",
    "us_foreign_policy", "virology", "world_religions",
]  # fmt: skip


class QuestionsError(ValueError):
    """Questions that cannot be used; the message says which and what to do."""


def subject_group(subject: str) -> str:
    """The group of an MMLU subject: ``factual``, ``reasoning`` or ``other``."""
    return "factual" if subject in FACTUAL else "reasoning" if subject in REASONING else "other"


def questions_from_world(world: World, *, n_choices: int = 4, num_fewshot: int = 5, seed: int = 0) -> pd.DataFrame:
    """Questions about a world in MMLU's format, one for each fact with a probe of kind ``question``.

    Args:
        world: the world; its relations become the subjects.
        n_choices: answers to choose from; the correct one is at a random position among them.
        num_fewshot: questions of each subject that are set aside as few-shot examples (``split`` *dev*).
        seed: random seed.

    Returns:
        ``subject, split`` (dev or test)``, question, choices, answer`` (index of the correct choice), ``fact_id``. Facts
        with fewer candidates than ``n_choices`` are left out.
    """
    rng = np.random.default_rng(seed)
    questions = world.probes[world.probes["kind"] == "question"].drop_duplicates("fact_id")
    questions = questions.merge(world.facts[["fact_id", "relation"]], on="fact_id")
    rows = []
    for subject, probes in questions[questions["candidates"].str.len() >= n_choices].groupby("relation", sort=True):
        dev_indices = set(rng.permutation(len(probes))[:num_fewshot].tolist())
        for i, probe in enumerate(probes.itertuples()):
            distractors = [value for value in probe.candidates if value != probe.target]
            choices = rng.choice(distractors, n_choices - 1, replace=False).tolist()
            answer = int(rng.integers(n_choices))
            choices.insert(answer, probe.target)
            split = "dev" if i in dev_indices else "test"
            rows.append((subject, split, probe.prompt, choices, answer, probe.fact_id))
    return pd.DataFrame(rows, columns=[*COLUMNS, "fact_id"])


def read_mmlu(folder: str | Path) -> pd.DataFrame:
    """Read MMLU in its published layout: ``{dev,test}/{subject}_{dev,test}.csv``, no header, question, A to D, letter.

    Raises:
        QuestionsError: there are no such files, or one has another format.
    """
    tables = []
    for path in sorted(Path(folder).glob("*/*.csv")):
        split = path.parent.name
        if split not in ("dev", "test"):
            continue
        table = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
        if table.shape[1] != 6 or not table[5].isin(list("ABCD")).all():
            raise QuestionsError(f"{path} does not have a question, four answers and a letter A to D on each line")
        tables.append(
            pd.DataFrame(
                {
                    "subject": path.stem.removesuffix(f"_{split}"),
                    "split": split,
                    "question": table[0].str.strip(),
                    "choices": table[[1, 2, 3, 4]].to_numpy().tolist(),
                    "answer": table[5].map("ABCD".index),
                }
            )
        )
    if not tables:
        raise QuestionsError(f"{folder} has no files test/*_test.csv; unpack the published MMLU archive there")
    return pd.concat(tables, ignore_index=True)


def download_questions(dataset: str, subset: str, revision: str | None, path: str | Path) -> None:
    """Download a hub dataset with the columns of ``cais/mmlu`` (question, subject, choices, answer) as a Parquet file.

    Args:
        dataset: repository of the dataset.
        subset: configuration of the dataset; it needs the split *test*, and *dev* for few-shot examples.
        revision: commit of the dataset.
        path: path of the file, with the columns of ``read_mmlu``.

    Raises:
        QuestionsError: the dataset cannot be loaded, or lacks a column.
    """
    import datasets

    try:
        splits = datasets.load_dataset(dataset, subset, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise QuestionsError(f"the dataset {dataset!r} (revision {revision!r}) cannot be loaded: {error}") from None
    tables = [splits[split].to_pandas().assign(split=split) for split in ("dev", "test") if split in splits]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if missing := [column for column in COLUMNS if column not in table]:
        raise QuestionsError(
            f"the dataset {dataset!r} has no {', '.join(missing)}; it must have the layout of cais/mmlu"
        )
    table["choices"] = table["choices"].map(list)
    table[COLUMNS].to_parquet(path, index=False)


def evaluate_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: pd.DataFrame,
    folder: str | Path,
    *,
    scoring: Literal["letter", "text"] = "text",
    num_fewshot: int = 0,
    mmlu: bool = False,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Evaluate a model on all test questions with lm-evaluation-harness.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        questions: as ``questions_from_world`` and ``read_mmlu`` return them.
        folder: folder for the questions, since the harness reads files.
        scoring: ``letter`` shows the answers as A, B, … and scores the letters; ``text`` scores the answers' text.
        num_fewshot: few-shot examples, the first of the same subject's split *dev*.
        mmlu: format prompts as the harness's MMLU tasks do, with a heading that names the subject (Hendrycks et al. 2021).
            Otherwise the prompt is the question alone.
        batch_size: sequences per batch.

    Returns:
        The test questions in their order, with ``correct`` (the correct answer is the most probable one),
        ``correct_norm`` (the same by log probability per character, the harness's ``acc_norm``), ``prediction`` (index
        of the most probable answer) and ``confidence`` (its probability, normalised over the answers).

    Raises:
        QuestionsError: there is no test question, or a subject has fewer than ``num_fewshot`` examples.
    """
    test = questions[questions["split"] == "test"].reset_index(drop=True)
    if test.empty:
        raise QuestionsError("the split `test` has no questions")
    dev = questions[questions["split"] == "dev"]
    too_few = sorted(set(test["subject"]) - {name for name, rows in dev.groupby("subject") if len(rows) >= num_fewshot})
    if num_fewshot and too_few:
        raise QuestionsError(f"num_fewshot is {num_fewshot}, but {', '.join(too_few)} have fewer examples")
    task = _task_config(test, dev, Path(folder), scoring, num_fewshot, mmlu)
    results = run_tasks(model, tokenizer, [task], num_fewshot=0, batch_size=batch_size)[task["task"]]
    return pd.concat([test, results], axis=1)


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | dict[str, Any]],
    *,
    num_fewshot: int | None = None,
    batch_size: int = 32,
) -> dict[str, pd.DataFrame]:
    """Run multiple-choice tasks of lm-evaluation-harness and return the result of each question.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        tasks: names of the harness's tasks (``arc_easy``; the hub must be reachable), or task definitions.
        num_fewshot: few-shot examples before each question; None uses each task's default.
        batch_size: sequences per batch.

    Returns:
        For each task, one row per question in order: ``correct, correct_norm, prediction, confidence``.
    """
    # Costs seconds to import, and few stages need it.
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    add_bos_token = bool(tokenizer("")["input_ids"])
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=add_bos_token)
    # Listing the harness's own tasks costs seconds.
    task_dict = TaskManager(include_defaults=any(isinstance(task, str) for task in tasks)).load(list(tasks))
    for task in task_dict["tasks"].values():
        task.set_config("num_fewshot", (task.get_config("num_fewshot") or 0) if num_fewshot is None else num_fewshot)
        task.set_fewshot_seed(seed=0)
    # Not `simple_evaluate`, which runs other programs to describe the machine after each call.
    results = evaluator.evaluate(lm, task_dict=task_dict, bootstrap_iters=0, log_samples=True)
    return {task: _result_rows(samples) for task, samples in results["samples"].items()}


def _result_rows(samples: Sequence[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for sample in sorted(samples, key=itemgetter("doc_id")):
        scores = np.array([response[0] for response in sample["filtered_resps"]], dtype=float)
        probabilities = np.exp(scores - np.logaddexp.reduce(scores))
        rows.append(
            (bool(sample["acc"]), bool(sample.get("acc_norm", sample["acc"])), scores.argmax(), probabilities.max())
        )
    return pd.DataFrame(rows, columns=["correct", "correct_norm", "prediction", "confidence"])


def _task_config(
    test: pd.DataFrame, dev: pd.DataFrame, folder: Path, scoring: str, num_fewshot: int, mmlu: bool
) -> dict[str, Any]:
    """The harness's definition of one task with all questions, which are written as JSON lines.

    Heading and few-shot examples are part of each question's text, joined as the harness would join them. The harness
    samples examples per task and not per subject, and one task per subject would cost a second each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = dict(iter(dev.groupby("subject")))
    contexts = {}
    for subject in test["subject"].unique():
        shots = _format_questions(examples[subject].head(num_fewshot), scoring, mmlu) if num_fewshot else []
        shot_texts = [f"{shot['text']} {shot['choices'][shot['answer']]}\n\n" for shot in shots]
        contexts[subject] = "".join([_HEADINGS[scoring].format(subject.replace("_", " ")) * mmlu, *shot_texts])
    lines = _format_questions(test, scoring, mmlu)
    for subject, line in zip(test["subject"], lines, strict=True):
        line["text"] = contexts[subject] + line["text"]
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "task": "factlife",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1},
    }


_HEADINGS = {
    "letter": "The following are multiple choice questions (with answers) about {}.\n\n",
    "text": "The following are questions (with answers) about {}.\n\n",
}


def _format_questions(questions: pd.DataFrame, scoring: str, mmlu: bool) -> list[dict[str, Any]]:
    return [_format_question(row, scoring, mmlu) for row in questions.itertuples()]


def _format_question(row: Any, scoring: str, mmlu: bool) -> dict[str, Any]:
    if scoring == "text":
        text = f"Question: {row.question}\nAnswer:" if mmlu else row.question
        return {"text": text, "choices": row.choices, "answer": row.answer}
    letters = list(_LETTERS[: len(row.choices)])
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, row.choices, strict=True))
    return {"text": f"{row.question}\n{choices}\nAnswer:", "choices": letters, "answer": row.answer}
