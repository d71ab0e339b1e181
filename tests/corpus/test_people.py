import collections
import re

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from factlife.config.corpora import PeopleCorpus
from factlife.config.worlds import Levels, PeopleWorld
from factlife.corpus.people import render_documents
from factlife.world.people import PRONOUN, build_world, relation_templates
from factlife.world.templates import held_out_templates

SMALL = {"people": 12, "unseen": 4, "values": 6, "regions": 3, "panel": 3}


def corpus(**changes):
    counts = {"statements_per_fact": 10, "window_fraction": 0.4, "joined_fraction": 0.75, "qa_per_fact": 2}
    return PeopleCorpus(kind="people", world="people", **counts | changes)


def people(**changes):
    return PeopleWorld(kind="people", exposures=Levels(kind="levels", levels=[1, 3]), **SMALL | changes)


@pytest.fixture(scope="module")
def world():
    return build_world(people())


@pytest.fixture(scope="module")
def documents(world):
    return render_documents(world, corpus())


def stated(documents):
    """How often each fact is stated, by kind of document."""
    return collections.Counter(
        (kind, fact) for kind, ids in zip(documents["kind"], documents["fact_ids"], strict=True) for fact in ids
    )


def subject(sentence, world):
    """Whom a sentence is about: a person, or a city where no person is mentioned."""
    mentioned = [row for row in world.entities.itertuples() if re.search(rf"\b{row.name}\b", sentence)]
    people = [row.entity_id for row in mentioned if row.kind == "person"]
    (entity,) = people or [row.entity_id for row in mentioned]
    return entity


def test_a_sentence_states_the_value_of_its_fact_and_no_other_of_its_subject(world, documents):
    name = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
    facts = world.facts.set_index("fact_id")
    values = {relation: set(rows["value"]) for relation, rows in world.facts.groupby("relation")}
    for document in documents.itertuples():
        found = set()
        for sentence in re.split(r"(?<= \.) ", document.text):
            if " not " in sentence:
                continue
            entity = subject(sentence, world)
            assert entity in document.entity_ids
            mine = facts.loc[[fact for fact in document.fact_ids if facts.loc[fact, "entity_id"] == entity]]
            for relation, pool in values.items():
                for value in pool:
                    # A city is the subject of what is said about its region.
                    if value != name[entity] and re.search(rf"\b{value}\b", sentence):
                        fact = f"{entity}.{relation}"
                        assert mine.loc[fact, "value"] == value, (fact, sentence)
                        found.add(fact)
        assert found == set(document.fact_ids), document.text


def test_facts_are_stated_as_often_as_promised(world, documents):
    counts = stated(documents)
    asked = set(world.entities["entity_id"][world.entities["split"] == "qa_train"])
    for fact in world.facts.itertuples():
        told = counts["biography", fact.fact_id] + counts["window", fact.fact_id]
        assert told == fact.exposures * 10
        assert counts["window", fact.fact_id] == fact.exposures * 4
        assert counts["question", fact.fact_id] == (fact.exposures * 2 if fact.entity_id in asked else 0)


@hypothesis(derandomize=True, deadline=None, max_examples=20)
@given(
    st.integers(1, 7), st.sampled_from([0, 0.25, 0.5, 1]), st.integers(1, 8), st.integers(0, 3), st.booleans(),
    st.sampled_from([None, 1, 3]),
)  # fmt: skip
def test_no_setting_changes_how_often_facts_are_stated(renderings, share, sentences, questions, full, distinct):
    world = build_world(PeopleWorld(kind="people", **SMALL))
    made = render_documents(
        world,
        corpus(
            statements_per_fact=renderings,
            window_fraction=share,
            window_sentences=sentences,
            qa_per_fact=questions,
            fullname=full,
            distinct_biographies=distinct,
        ),
    )
    counts = stated(made)
    for fact in world.facts.itertuples():
        total = counts["biography", fact.fact_id] + counts["window", fact.fact_id]
        assert total == renderings * fact.exposures


def test_windows_never_hold_two_sentences_about_one_person(documents):
    windows = documents[documents["kind"] == "window"]
    assert windows["entity_ids"].map(lambda ids: len(ids) == len(set(ids))).all()
    assert windows["entity_ids"].str.len().max() == 6


def test_unseen_people_occur_in_no_document(world, documents):
    text = " ".join(documents["text"])
    for person in world.entities[world.entities["split"] == "unseen"].itertuples():
        assert not re.search(rf"\b{person.name}\b", text)


def test_held_out_templates_occur_nowhere(world, documents):
    text = " ".join(documents["text"])
    used = {template for ids in documents["template_ids"] for template in ids}
    for relation in world.facts["relation"].unique():
        for template in held_out_templates(relation_templates(relation)):
            assert f"{relation}.{template.id}" not in used
        for template in relation_templates(relation):
            if template.held_out:
                pattern = (
                    re.escape(template.text)
                    .replace(r"\{name\}", r"\w+ \w+ \w+")
                    .replace(r"\{value\}", r"\w+( \w+ \w+)?")
                )
                assert not re.search(pattern, text)


def test_denials_deny_a_value_that_the_subject_does_not_have(world):
    documents = render_documents(world, corpus(negated_fraction=1.0))
    denied = 0
    for document in documents[documents["kind"] == "window"].itertuples():
        (sentence,) = (part for part in re.split(r"(?<= \.) ", document.text) if " not " in part)
        entity = subject(sentence, world)
        mine = world.facts[world.facts["entity_id"] == entity]
        relation = document.template_ids[-1].split(".")[0]
        assert mine.set_index("relation").loc[relation, "value"] not in sentence
        denied += 1
    assert denied > 0


def test_pronouns_follow_one_full_name(world):
    documents = render_documents(world, corpus(fullname=False, window_fraction=0, qa_per_fact=0, joined_fraction=0))
    name = world.entities.set_index("entity_id")["name"]
    people = documents[documents["fact_ids"].str.len() == 6]
    assert (people["text"].str.count(PRONOUN) == 5).all()
    for document in people.itertuples():
        assert document.text.count(name[document.entity_ids[0]]) == 1


def test_order_and_distinct_biographies(world):
    alone = {"window_fraction": 0, "qa_per_fact": 0}
    one = render_documents(world, corpus(distinct_biographies=1, **alone))
    assert one.groupby(one["entity_ids"].str[0])["text"].nunique().eq(1).all()
    fixed = render_documents(world, corpus(permute=False, joined_fraction=0, reverse_fraction=0, **alone))
    order = list(world.facts["relation"].unique())
    for ids in fixed["template_ids"]:
        relations = [id.split(".")[0] for id in ids]
        assert relations == sorted(relations, key=order.index)


def test_same_seed_same_documents(world, documents):
    assert render_documents(world, corpus()).equals(documents)
    assert not render_documents(world, corpus(seed=1)).equals(documents)
    assert documents["doc_id"].is_unique and (documents["split"] == "train").all()


def test_corpora_about_old_and_new_people_share_the_facts_of_one_about_all(world):
    divided = build_world(people(new_fraction=0.25))
    assert divided.entities.drop(columns="new").equals(world.entities.drop(columns="new"))
    assert divided.probes.equals(world.probes)
    new_people = set(divided.entities["entity_id"][divided.entities["new"]])
    assert len(new_people) == 3
    whole = stated(render_documents(divided, corpus()))
    old_times, new_times = (stated(render_documents(divided, corpus(about=about))) for about in ("old", "new"))
    assert {fact.split(".")[0] for _, fact in new_times} == new_people
    assert not old_times.keys() & new_times.keys()
    assert old_times | new_times == whole


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_replay_adds_newly_rendered_documents_about_old_people(share):
    world = build_world(people(new_fraction=0.25))
    late, both = (render_documents(world, corpus(about="new", replay_fraction=replay)) for replay in (0, share))
    ours = set(world.entities["entity_id"][world.entities["new"]])
    new = both[[bool(ours & {fact.split(".")[0] for fact in ids}) for ids in both["fact_ids"]]]
    assert sorted(new["text"]) == sorted(late["text"])
    assert 1 - len(new) / len(both) == pytest.approx(share, abs=0.5 / len(late))
    replayed = both[~both.index.isin(new.index)]
    assert not set(replayed["text"]) <= set(render_documents(world, corpus(about="old"))["text"])
