"""Reading facts back: everything that the corpus writes, and what models make of it."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from factlife import world
from factlife.collapse.statements import StatementParser
from factlife.config.corpora import PeopleCorpus
from factlife.config.worlds import PeopleWorld
from factlife.corpus import people
from factlife.world.people import negated_templates, question_template, relation_templates


@pytest.fixture(scope="module")
def made():
    return world.build_world(PeopleWorld(kind="people", people=40, unseen=5, values=12, regions=4, panel=4))


@pytest.fixture(scope="module")
def parser(made):
    return StatementParser(made)


def fact_of(made, relation, row=0):
    fact = made.facts[(made.facts["relation"] == relation) & made.facts["seen"]].iloc[row]
    return fact, made.entities.set_index("entity_id")["name"][fact.entity_id]


@pytest.mark.parametrize("fullname", [True, False])
def test_every_document_states_its_facts_and_no_other(made, parser, fullname):
    settings = PeopleCorpus(
        kind="people", world="w", statements_per_fact=4, window_fraction=0.4, fullname=fullname, negated_fraction=0.5
    )
    documents = people.render_documents(made, settings)

    statements, counts = parser.parse(documents["text"].tolist())

    assert (counts["parsed_sentences"] == counts["sentences"]).all()
    assert set(statements["verdict"]) == {"true"}
    assert statements["negated"].any()
    stated = statements[~statements["negated"]].groupby("text_index")["fact_id"].apply(set)
    assert stated.tolist() == documents["fact_ids"].map(set).tolist()


def test_no_two_relations_share_a_template(made):
    relations = made.facts["relation"].unique()
    texts = [
        one.text
        for relation in relations
        for one in [*relation_templates(relation), *negated_templates(relation), question_template(relation)]
    ]

    assert len(texts) == len(set(texts))


def test_every_template_is_read_as_its_relation(made, parser):
    for relation in made.facts["relation"].unique():
        fact, name = fact_of(made, relation)
        for template in [*relation_templates(relation), question_template(relation)]:
            statements, _ = parser.parse([template.sentence(name, fact.value)])
            assert statements.to_dict("records") == [
                {
                    "text_index": 0, "relation": relation, "name": name, "value": fact.value, "negated": False,
                    "fact_id": fact.fact_id, "verdict": "true",
                }
            ], template.text  # fmt: skip


def test_verdicts(made, parser):
    fact, name = fact_of(made, "employer")
    wrong = next(value for value in made.facts["value"][made.facts["relation"] == "employer"] if value != fact.value)
    city = made.facts["value"][made.facts["relation"] == "birth_city"].iloc[0]
    texts = {
        f"{name} is paid by the firm of {fact.value} .": "true",
        f"{name} is paid by the firm of {wrong} .": "false",
        f"{name} is paid by the firm of {city} .": "unknown",
        f"Nobody Known is paid by the firm of {fact.value} .": "unknown",
        f"{city} is paid by the firm of {fact.value} .": "unknown",
        f"{name} is not paid by the firm of {wrong} .": "true",
        f"{name} is not paid by the firm of {fact.value} .": "false",
    }

    statements, _ = parser.parse(list(texts))

    assert statements["verdict"].tolist() == list(texts.values())
    assert statements["negated"].tolist() == [" not " in text for text in texts]


def test_joined_statements_and_the_pronoun_belong_to_the_last_name(made, parser):
    (born, name), (major, _) = fact_of(made, "birth_city"), fact_of(made, "major")
    texts = [
        f"{name} was raised in the town of {born.value} and was schooled in the field of {major.value} .",
        f"{name} was raised in the town of {born.value} . This person was schooled in the field of {major.value} .",
        f"This person was schooled in the field of {major.value} .",
    ]

    statements, _ = parser.parse(texts)

    assert statements["verdict"].tolist() == ["true"] * 4 + ["unknown"]
    assert statements["fact_id"].tolist()[:4] == [born.fact_id, major.fact_id] * 2


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", " . ", "Fus was", "born by owners is the county of", "Fus was raised in the town of Nalton",
        "Fus was raised in the town of Nalton was raised in the town of Nalton .",
        "Fus was raised in the town of Nalton and .", "is the birth city of .", "Question : what is the ? Answer : .",
    ],
)  # fmt: skip
def test_what_no_template_makes_states_nothing(parser, text):
    statements, counts = parser.parse([text])

    assert statements.empty
    assert counts["parsed_sentences"].tolist() == [0]


def test_texts_are_read_alone_or_together(made, parser):
    texts = (
        people.render_documents(made, PeopleCorpus(kind="people", world="w", statements_per_fact=1))["text"]
        .head(40)
        .tolist()
    )

    together, counts = parser.parse(texts)

    alone = [parser.parse([text]) for text in texts]
    one = pd.concat(
        [statements.assign(text_index=number) for number, (statements, _) in enumerate(alone)], ignore_index=True
    )
    pd.testing.assert_frame_equal(one, together)
    assert counts["sentences"].tolist() == list(itertools.chain(*(count["sentences"] for _, count in alone)))
