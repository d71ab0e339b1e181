"""Multiple-choice tests of a generation, through lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from factlife.config.collapse import MultipleChoice
from factlife.recall import harness
from factlife.world import World


def questions(test: MultipleChoice, world: World, path: str | Path | None = None) -> pd.DataFrame:
    """The questions of a test, with the ``group`` of each: factual, reasoning or other.

    Args:
        test: its settings.
        world: where questions of kind ``world`` come from; all of them are factual.
        path: the folder of the archive, or the file that was downloaded.
    """
    if test.kind == "world":
        # At least 5 stay apart, so that the same questions are asked whatever the shots.
        found = harness.questions_from_world(world, num_fewshot=max(5, *test.shots)).assign(group="factual")
    else:
        found = pd.read_parquet(path) if test.dataset else harness.read_mmlu(path)
        found = found.assign(group=found["subject"].map(harness.subject_group))
    if test.questions is not None:
        mixed = found.sample(frac=1, random_state=0).sort_index(key=lambda index: index.map(found["split"] == "test"))
        kept = mixed.groupby(["subject", "split"]).head(test.questions).index
        found = found[(found["split"] == "dev") | found.index.isin(kept)].reset_index(drop=True)
    return found


def take(model: Any, tokenizer: Any, tests: Mapping[str, tuple[MultipleChoice, pd.DataFrame]]) -> pd.DataFrame:
    """All tests in all their forms.

    Args:
        model: of the generation.
        tokenizer: its tokenizer.
        tests: by name, the settings and the ``questions``.

    Returns:
        One row per test, form and question: ``test, scoring, shots, question, subject, group, correct, correct_norm,
        chosen, confidence``.

    Raises:
        QuestionsError: letters are to be scored, and the tokenizer has none.
    """
    rows = [pd.DataFrame(columns=_COLUMNS)]
    for name, (test, asked) in tests.items():
        for scoring in test.scoring:
            unknown = tokenizer.unk_token_id
            if scoring == "letter" and unknown is not None and unknown in tokenizer("A B C D")["input_ids"]:
                raise harness.QuestionsError(
                    f"the tokenizer has no letters for collapse.tests.{name}; set its `scoring` to [text]"
                )
            for shots in test.shots:
                with TemporaryDirectory() as folder:
                    found = harness.evaluate_questions(
                        model, tokenizer, asked, folder,
                        scoring=scoring, num_fewshot=shots, mmlu=test.kind == "mmlu", batch_size=test.batch_size,
                    )  # fmt: skip
                found = found.assign(test=name, scoring=scoring, shots=shots, question=range(len(found)))
                rows.append(found[_COLUMNS])
    return pd.concat(rows[1:] or rows, ignore_index=True)


_COLUMNS = [
    "test", "scoring", "shots", "question", "subject", "group", "correct", "correct_norm", "prediction", "confidence",
]  # fmt: skip
