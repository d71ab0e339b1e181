"""Questions from worlds and from MMLU's files; the harness says what the probe engine says."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import lm_eval
import numpy as np
import pandas as pd
import pytest
import yaml

from factlife import corpus, world
from factlife.config.corpora import PeopleCorpus
from factlife.config.corpora import Tokenizer as Settings
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus.tokenizers import train_tokenizer
from factlife.models import initialize_model
from factlife.recall import harness
from factlife.recall.score import score_probes

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def people():
    return world.build_world(PeopleWorld(kind="people", people=12, unseen=2, values=6, regions=3, panel=3))


@pytest.fixture(scope="module")
def questions(people):
    return harness.questions_from_world(people, num_fewshot=2)


@pytest.fixture(scope="module")
def asked(people):
    texts = corpus.render_documents(PeopleCorpus(kind="people", world="people", statements_per_fact=2), people)["text"]
    tokenizer = train_tokenizer(Settings(kind="word", corpus="people"), [*texts, "A B C D . Answer :"], people)
    source = Scratch(kind="scratch", architecture="LlamaForCausalLM", config=SIZES | {"initializer_range": 0.4})
    return initialize_model(source, tokenizer, 0), tokenizer


def test_questions_of_a_world_hold_the_truth(people, questions):
    facts = people.facts.set_index("fact_id")
    asked = people.probes[people.probes["kind"] == "question"]
    # There are three regions: too few to choose among four.
    assert set(questions["fact_id"]) == set(asked["fact_id"]) - set(facts.index[facts["relation"] == "region"])
    for row in questions.itertuples():
        fact = facts.loc[row.fact_id]
        assert row.choices[row.answer] == fact["value"] and row.subject == fact["relation"]
        assert len(set(row.choices)) == 4
    assert questions.groupby("subject")["split"].apply(lambda split: (split == "dev").sum()).eq(2).all()
    # No place is favoured: with 4 answers a place has a quarter of them, within 4 standard deviations.
    share = np.bincount(questions["answer"], minlength=4) / len(questions)
    assert np.abs(share - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / len(questions))


def test_harness_and_probe_engine_agree(asked, questions, tmp_path):
    model, tokenizer = asked
    found = harness.evaluate_questions(model, tokenizer, questions, tmp_path, batch_size=7)
    assert found["question"].tolist() == questions.loc[questions["split"] == "test", "question"].tolist()
    targets = [choices[answer] for choices, answer in zip(found["choices"], found["answer"], strict=True)]
    probes = pd.DataFrame({"prompt": found["question"], "target": targets, "candidates": found["choices"]})
    expected = score_probes(model, tokenizer, probes)
    assert found["correct"].tolist() == expected["candidate_correct"].tolist()
    assert found["confidence"].to_numpy() == pytest.approx(expected["confidence"].to_numpy(float), rel=1e-4)
    assert (found["prediction"] == found["answer"]).tolist() == found["correct"].tolist()


def test_examples_come_from_the_split_for_them(asked, questions, tmp_path):
    model, tokenizer = asked
    one = questions[questions["subject"] == "birth_city"]
    found = harness.evaluate_questions(model, tokenizer, one, tmp_path, num_fewshot=2)
    dev = one[one["split"] == "dev"]
    shown = "".join(f"{row.question} {row.choices[row.answer]}\n\n" for row in dev.itertuples())
    probes = pd.DataFrame(
        {
            "prompt": shown + found["question"],
            "target": [row.choices[row.answer] for row in found.itertuples()],
            "candidates": found["choices"],
        }
    )
    expected = score_probes(model, tokenizer, probes)["confidence"].to_numpy(float)
    assert found["confidence"].to_numpy() == pytest.approx(expected, rel=1e-4)


def test_letters_are_scored_where_letters_are_asked_for(asked, questions, tmp_path):
    model, tokenizer = asked
    one = questions[questions["subject"] == "birth_city"]
    found = harness.evaluate_questions(model, tokenizer, one, tmp_path, scoring="letter")
    row = found.iloc[0]
    offered = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row["choices"], strict=True))
    probe = {"prompt": f"{row['question']}\n{offered}Answer:", "target": "ABCD"[row["answer"]]}
    expected = score_probes(model, tokenizer, pd.DataFrame([probe | {"candidates": list("ABCD")}]))
    assert row["confidence"] == pytest.approx(float(expected["confidence"][0]), rel=1e-4)


@pytest.mark.parametrize(("scoring", "form"), [("letter", "default"), ("text", "continuation")])
@pytest.mark.parametrize("shots", [0, 2])
def test_mmlu_is_asked_as_the_harness_asks_it(tmp_path, scoring, form, shots):
    published = Path(lm_eval.__file__).parent / "tasks/mmlu" / form
    heading = yaml.safe_load((published / "mmlu_high_school_physics.yaml").read_text())["description"]
    question = jinja2.Template(yaml.safe_load((published / f"_{form}_template_yaml").read_text())["doc_to_text"])
    rows = [(split, number) for split in ("dev", "test") for number in range(3)]
    asked = pd.DataFrame(
        [("high_school_physics", split, f"{split} {number}?", list("pqrs"), number) for split, number in rows],
        columns=harness.COLUMNS,
    )
    dev, test = asked[asked["split"] == "dev"], asked[asked["split"] == "test"]

    harness._task_config(test, dev, tmp_path, scoring, shots, mmlu=True)

    texts = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers = "ABC" if scoring == "letter" else "pqr"
    examples = [f"{question.render(row)} {answers[row['answer']]}" for row in dev.head(shots).to_dict("records")]
    assert texts == [heading + "\n\n".join([*examples, question.render(row)]) for row in test.to_dict("records")]


def test_missing_questions_are_named(asked, questions, tmp_path):
    with pytest.raises(harness.QuestionsError, match="the split `test` has no questions"):
        harness.evaluate_questions(*asked, questions[questions["split"] == "dev"], tmp_path)
    with pytest.raises(harness.QuestionsError, match=r"num_fewshot is 3, but birth_city.* have fewer examples"):
        harness.evaluate_questions(*asked, questions, tmp_path, num_fewshot=3)


def test_mmlu_is_read_from_its_files(tmp_path):
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"anatomy_{split}.csv").write_text(f'"Which, {split}?",one,2,three,None,D\n')
    found = harness.read_mmlu(tmp_path).to_dict("records")
    assert found == [
        {
            "subject": "anatomy",
            "split": split,
            "question": f"Which, {split}?",
            "choices": ["one", "2", "three", "None"],
            "answer": 3,
        }
        for split in ("dev", "test")
    ]


@pytest.mark.parametrize("line", ["What?,1,2,3,A\n", "What?,1,2,3,4,E\n"])
def test_other_files_are_named(tmp_path, line):
    with pytest.raises(harness.QuestionsError, match=r"has no files test/\*_test.csv"):
        harness.read_mmlu(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test/a_test.csv").write_text(line)
    with pytest.raises(harness.QuestionsError, match=r"a_test.csv does not have a question, four answers and a letter"):
        harness.read_mmlu(tmp_path)


def test_groups_are_disjoint():
    assert not set(harness.FACTUAL) & set(harness.REASONING)
    assert [harness.subject_group(subject) for subject in ("anatomy", "formal_logic", "philosophy")] == [
        "factual", "reasoning", "other",
    ]  # fmt: skip
