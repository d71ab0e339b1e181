"""Tests of every form: their questions, and that letters are asked for only where a tokenizer has them."""

from __future__ import annotations

import pandas as pd
import pytest

from factlife import corpus, world
from factlife.collapse.summary import TASK_KEYS, GenerationKey, summarise_tasks
from factlife.collapse.tasks import evaluate_tasks, task_questions
from factlife.config.collapse import MultipleChoiceTask
from factlife.config.corpora import PeopleCorpus
from factlife.config.corpora import Tokenizer as Settings
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus.tokenizers import train_tokenizer
from factlife.models import initialize_model
from factlife.recall import harness

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def people():
    return world.build_world(PeopleWorld(kind="people", people=12, unseen=2, values=6, regions=0, panel=3))


@pytest.fixture(scope="module")
def model(people):
    texts = corpus.render_documents(PeopleCorpus(kind="people", world="people", statements_per_fact=2), people)["text"]
    tokenizer = train_tokenizer(Settings(kind="word", corpus="people"), texts, people)
    return initialize_model(
        Scratch(kind="scratch", architecture="LlamaForCausalLM", config=SIZES), tokenizer, 0
    ), tokenizer


def test_as_many_questions_of_each_subject_as_are_asked_for(people):
    every, some = (
        task_questions(MultipleChoiceTask(kind="world"), people),
        task_questions(MultipleChoiceTask(kind="world", limit=2), people),
    )

    assert some[some["split"] == "test"].groupby("subject").size().eq(2).all()
    assert every[every["split"] == "test"].groupby("subject").size().gt(2).all()
    # Examples are the same, and what is asked is among all questions.
    dev = [table.loc[table["split"] == "dev", "question"].tolist() for table in (every, some)]
    assert dev[0] == dev[1]
    assert set(some["question"]) <= set(every["question"])
    pd.testing.assert_frame_equal(some, task_questions(MultipleChoiceTask(kind="world", limit=2), people))


def test_mmlu_knows_its_groups(people, tmp_path):
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
        for subject in ("anatomy", "formal_logic", "philosophy"):
            (tmp_path / split / f"{subject}_{split}.csv").write_text("Which?,1,2,3,4,D\n" * 3)

    found = task_questions(MultipleChoiceTask(kind="mmlu", path=str(tmp_path)), people, tmp_path)

    assert found.groupby("subject")["group"].first().to_dict() == {
        "anatomy": "factual", "formal_logic": "reasoning", "philosophy": "other",
    }  # fmt: skip


def test_a_downloaded_test_is_read_as_the_archive_is(people, tmp_path):
    rows = [("anatomy", "test", "Which?", ["1", "2", "3", "4"], 3)]
    pd.DataFrame(rows, columns=harness.COLUMNS).to_parquet(tmp_path / "t.parquet")

    found = task_questions(MultipleChoiceTask(kind="mmlu", dataset="a/b", revision="1"), people, tmp_path / "t.parquet")

    assert found["group"].tolist() == ["factual"]
    assert list(found["choices"][0]) == ["1", "2", "3", "4"]


def test_every_form_is_taken_and_summarised(people, model, tmp_path):
    test = MultipleChoiceTask(kind="world", scoring=["text"], num_fewshot=[0, 2], limit=3)

    found = evaluate_tasks(*model, {"people": (test, task_questions(test, people))})

    forms = found.groupby(["task", "scoring", "num_fewshot"]).size()
    assert forms.to_dict() == {("people", "text", 0): 18, ("people", "text", 2): 18}
    found.to_parquet(tmp_path / "tasks.parquet")
    table = summarise_tasks({GenerationKey("m", "a", 0, 1): tmp_path}, resamples=50)
    assert not table.duplicated([*TASK_KEYS, "metric"]).any()
    row = table.set_index(["num_fewshot", "subject", "metric"]).loc[(2, "all", "accuracy")]
    assert row["estimate"] == pytest.approx(found.loc[found["num_fewshot"] == 2, "correct"].mean())
    assert row["n"] == 18


def test_letters_need_a_tokenizer_that_has_them(people, model):
    test = MultipleChoiceTask(kind="world", scoring=["letter"])

    with pytest.raises(harness.QuestionsError, match=r"has no letters for collapse.tasks.people; set its `scoring`"):
        evaluate_tasks(*model, {"people": (test, task_questions(test, people))})


def test_no_test_is_an_empty_table(people, model, tmp_path):
    evaluate_tasks(*model, {}).to_parquet(tmp_path / "tasks.parquet")

    assert summarise_tasks({GenerationKey("m", "a", 0, 0): tmp_path}, resamples=10).empty
