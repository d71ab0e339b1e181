"""Texts, perplexity and weights against slow versions and closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from factlife.config.editing import (
    EditEvaluation,
    EditRequests,
    EditSchedule,
    EditSite,
    LocFt,
    Memit,
    TargetVectorSettings,
)
from factlife.editing import editable, summarise_metrics, tasks
from factlife.editing.metrics import (
    EditMetrics,
    generate_texts,
    inverse_document_frequencies,
    ngram_entropy,
    perplexity_texts,
    reference_texts,
    tfidf_similarity,
)
from factlife.editing.requests import probes_from_world, requests_from_world
from factlife.editing.schedules import run_editor


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=6))


def corpus(world):
    facts = world.facts.head(30)
    return pd.DataFrame(
        {
            "doc_id": [f"d{number}" for number in range(30)],
            "text": [f"It is said of {value} ." for value in facts["value"]],
            "fact_ids": [[fact] for fact in facts["fact_id"]],
            "entity_ids": [[entity] for entity in facts["entity_id"]],
            "split": ["train"] * 20 + ["held_out"] * 10,
        }
    )


def test_fluency_of_texts_that_can_be_counted():
    assert ngram_entropy("a a a a a") == 0.0
    # Four pairs and three triples, all different.
    assert ngram_entropy("a b c d e") == pytest.approx(math.log2(4) / 3 + 2 * math.log2(3) / 3)
    # Pairs ab ba ab: entropy of (2/3, 1/3); triples aba bab.
    pairs = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy("a b a b") == pytest.approx(pairs / 3 + 2 / 3)
    assert ngram_entropy("one") == 0.0


def test_similarity_is_the_cosine_of_tf_idf():
    texts = ["the city lies on the river", "a city in the north", "rivers run to the sea", "the end"]
    one, other = "the city of the river was the first city", "the city lies in the north"
    vectorizer = TfidfVectorizer(token_pattern=r"\S+").fit(texts)
    expected = (vectorizer.transform([one]) @ vectorizer.transform([other]).T).toarray()[0, 0]

    weights = inverse_document_frequencies(texts)

    assert tfidf_similarity(one, other, weights) == pytest.approx(expected)
    assert tfidf_similarity(other, one, weights) == pytest.approx(expected)
    assert tfidf_similarity(one, one, weights) == pytest.approx(1.0)
    assert tfidf_similarity(one, "nothing known here", weights) == 0.0


def test_a_text_depends_on_its_number_and_not_on_the_others(target, world):
    prompts = world.entities["name"].tolist()[:3]

    together = generate_texts(target.model, target.tokenizer, prompts, max_new_tokens=12)

    assert generate_texts(target.model, target.tokenizer, prompts[:1], max_new_tokens=12) == together[:1]
    assert generate_texts(target.model, target.tokenizer, prompts, max_new_tokens=12) == together
    assert generate_texts(target.model, target.tokenizer, prompts, max_new_tokens=12, seed=1) != together
    assert all(text.startswith(prompt) for text, prompt in zip(together, prompts, strict=True))


def test_one_token_to_choose_from_is_greedy_decoding(target, world):
    prompt = world.entities["name"].iloc[0]
    ids = target.tokenizer(prompt, return_tensors="pt")["input_ids"]

    (found,) = generate_texts(target.model, target.tokenizer, [prompt], max_new_tokens=8, top_k=1)

    with torch.no_grad():
        greedy = target.model.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
    assert found == target.tokenizer.decode(greedy[0], skip_special_tokens=True)


def test_tokens_are_drawn_as_often_as_they_are_probable(target, world):
    prompt = world.entities["name"].iloc[0]
    with torch.no_grad():
        logits = target.model(target.tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0, -1]
    best, tokens = logits.topk(5)
    shares = best.softmax(0)

    texts = generate_texts(target.model, target.tokenizer, [prompt] * 2000, max_new_tokens=1)

    for share, token in zip(shares.tolist(), tokens.tolist(), strict=True):
        said = target.tokenizer.decode([*target.tokenizer(prompt)["input_ids"], token], skip_special_tokens=True)
        assert np.mean([text == said for text in texts]) == pytest.approx(share, abs=0.04)


def test_texts_for_perplexity_are_held_out_and_mention_no_edited_subject(world):
    documents = corpus(world)
    edited = {documents["entity_ids"].iloc[25][0]}

    found = perplexity_texts(documents, edited, EditEvaluation(perplexity_documents=100))

    allowed = documents[(documents["split"] == "held_out") & (documents["entity_ids"].str[0] != next(iter(edited)))]
    assert found.keys() == set(allowed["doc_id"]) and len(found) < 10
    assert len(perplexity_texts(documents, edited, EditEvaluation(perplexity_documents=3))) == 3
    assert perplexity_texts(documents.head(0), edited, EditEvaluation()) == {}
    only = perplexity_texts(documents.assign(split="train"), edited, EditEvaluation(perplexity_documents=100))
    assert len(only) == (documents["entity_ids"].str[0] != next(iter(edited))).sum()


def test_references_state_the_new_value_of_others(world, requests):
    documents, values = corpus(world), world.facts.set_index("fact_id")["value"]
    for one in requests.itertuples():
        assert all(
            values[fact] == one.target_new and fact.endswith(f".{one.relation}") for fact in one.reference_fact_ids
        )

    found = reference_texts(requests, documents)

    stated = {fact for facts in documents["fact_ids"] for fact in facts}
    for one in requests.itertuples():
        assert len(found[one.edit_id]) == min(5, len(stated & set(one.reference_fact_ids)))
        assert all(one.target_new in text for text in found[one.edit_id])


def test_what_is_measured_before_and_after(target, world, requests):
    documents = corpus(world)
    settings = EditEvaluation(generation_requests=2, max_new_tokens=8)
    read = perplexity_texts(documents, set(requests["entity_id"]), settings)
    metrics = EditMetrics(settings, read, {requests["edit_id"].iloc[0]: ["It is said ."]})
    editor = LocFt(
        kind="locft",
        layer=1,
        learning_rate=0.02,
        epochs=3,
        schedule=EditSchedule(kind="sequential", n_edits=4, edits_per_batch=2, n_evaluations=1),
    )

    done = run_editor(target, requests, probes_from_world(requests, world), editor, metrics=metrics)

    table = done.metrics.set_index(["phase", "metric"])["value"]
    assert set(done.metrics["phase"]) == {"pre", "end"}
    assert len(table.loc["pre", "fluency"]) == len(table.loc["end", "fluency"]) == 2
    assert 0 <= table.loc["end", "consistency"] <= 1 and len(table.loc["end", "nll"]) == len(read)
    assert ("pre", "weight_norm") not in table.index
    name = target.weight_name(1)
    before = dict(target.model.named_parameters())[name]
    assert table.loc["end", "weight_change"].item() == pytest.approx((done.deltas[name].norm() / before.norm()).item())
    norm = ((before + done.deltas[name]).norm() / before.norm()).item()
    assert table.loc["end", "weight_norm"].item() == pytest.approx(norm, rel=1e-5)
    with editable.apply_deltas(target.model, done.deltas), torch.no_grad():
        for item, text in read.items():
            ids = target.tokenizer(text, return_tensors="pt")["input_ids"]
            loss = target.model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            row = done.metrics[(done.metrics["phase"] == "end") & (done.metrics["item"] == item)].iloc[0]
            assert row["value"] == pytest.approx(loss, rel=1e-4) and row["weight"] == ids.shape[1] - 1


def test_after_single_edits_texts_are_written_and_none_is_read(target, world, requests):
    metrics = EditMetrics(EditEvaluation(generation_requests=1, max_new_tokens=4), {"d": "The end ."}, {})
    site = EditSite(fact_token="last", layers=[1])
    editor = Memit(
        kind="memit",
        **dict(site),
        values=TargetVectorSettings(v_num_grad_steps=3),
        schedule=EditSchedule(kind="single", n_edits=2),
    )

    done = run_editor(target, requests, probes_from_world(requests, world), editor, metrics=metrics).metrics

    post = done[done["phase"] == "post"]
    assert post["metric"].value_counts().to_dict() == {"weight_norm": 2, "weight_change": 2, "fluency": 1}
    assert set(done[done["metric"] == "nll"]["phase"]) == {"pre"}


def test_measures_are_summarised_with_intervals():
    keys = {"model": "m", "seed": 0, "editor": "e", "schedule": "batch", "phase": "end", "n_edits": 3}
    rows = [("nll", "a", 6.0, 2.0), ("nll", "b", 2.0, 2.0), ("fluency", "p.x", 3.0, 1.0), ("fluency", "q.x", 5.0, 1.0),
            ("weight_norm", "w", 1.2, 1.0), ("task_world", "p.x", 1.0, 1.0), ("task_world", "q.x", 0.0, 1.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["metric", "item", "value", "weight"]).assign(**keys)

    found = summarise_metrics(table, resamples=200).set_index("metric")

    assert found.loc["perplexity", "estimate"] == pytest.approx(math.exp(2))
    assert found.loc["perplexity", ["ci_low", "ci_high"]].tolist() == pytest.approx([math.e, math.exp(3)])
    assert found.loc["fluency", ["criterion", "estimate", "n"]].tolist() == ["generation", 4.0, 2]
    assert found.loc["task_world", ["criterion", "estimate", "ci_low", "ci_high"]].tolist() == ["", 0.5, 0.0, 1.0]
    assert math.isnan(found.loc["weight_norm", "ci_low"]) and found.loc["weight_norm", "interval_over"] == ""


def test_downstream_questions_are_asked_before_and_after(target, world, monkeypatch):
    weights = {name: parameter.detach().clone() for name, parameter in target.model.named_parameters()}
    name = target.weight_name(2)
    deltas = {name: torch.ones_like(weights[name])}
    keys = {"model": "m", "seed": 0, "editor": "e", "schedule": "batch"}
    columns = [*keys, "metric", "item", "value", "weight", "phase", "n_edits"]
    ran = pd.DataFrame([{**keys, "phase": "pre", "n_edits": 0}, {**keys, "phase": "end", "n_edits": 4}])
    ran = ran.assign(metric="nll", item="d", value=1.0, weight=1.0)[columns]

    # tests/recall/test_harness.py puts models through the harness itself, which takes half a minute.
    def evaluate(model, tokenizer, questions, folder):
        edited = not torch.equal(dict(model.named_parameters())[name], weights[name])
        return questions.assign(correct_norm=[not edited] * len(questions))

    def named(model, tokenizer, names):
        return {one: pd.DataFrame({"correct_norm": [True, False]}) for one in names}

    monkeypatch.setattr(tasks.harness, "evaluate_questions", evaluate)
    monkeypatch.setattr(tasks.harness, "run_tasks", named)
    found = tasks.evaluate_tasks(target.model, target.tokenizer, deltas, ran, ["world", "arc_easy"], world=world)

    assert all(torch.equal(parameter, weights[name]) for name, parameter in target.model.named_parameters())
    assert found.columns.tolist() == columns and set(found["metric"]) == {"task_world", "task_arc_easy"}
    assert found.groupby("phase")["n_edits"].unique().map(list).to_dict() == {"pre": [0], "end": [4]}
    means = found.groupby(["phase", "metric"])["value"].mean().to_dict()
    assert means == {
        ("pre", "task_world"): 1.0, ("end", "task_world"): 0.0,
        ("pre", "task_arc_easy"): 0.5, ("end", "task_arc_easy"): 0.5,
    }  # fmt: skip
    assert set(found[found["metric"] == "task_world"]["item"]) <= set(world.facts["fact_id"])
