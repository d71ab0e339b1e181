import collections
import re

import pandas as pd
import pytest

from factlife import corpus as corpora
from factlife.config.corpora import FunctionsCorpus
from factlife.config.worlds import FunctionsWorld
from factlife.corpus.documents import CorpusError
from factlife.corpus.functions import render_documents
from factlife.world.functions import PROBE_INPUTS, build_world, question_template, return_templates
from factlife.world.templates import held_out_templates, train_templates

KINDS = {"definition", "code_stub", "concept", "unit_test", "q_and_a", "narrative"}


def corpus(**changes):
    return FunctionsCorpus(kind="functions", world="functions", **{"documents_per_function": 12} | changes)


@pytest.fixture(scope="module", params=[True, False], ids=["tokens", "digits"])
def world(request):
    return build_world(
        FunctionsWorld(
            kind="functions",
            values=5,
            families_per_value=4,
            depth=2,
            aliases=8,
            distractors=5,
            number_tokens=request.param,
        )
    )


@pytest.fixture(scope="module")
def documents(world):
    return render_documents(world, corpus())


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def of(documents, entity_id):
    """The documents about an entity and nothing else."""
    return documents[documents["entity_ids"].map(lambda ids: list(ids) == [entity_id])]


def test_every_taught_fact_is_stated_as_often_as_promised_in_all_kinds(world, documents):
    counts = collections.Counter(
        (ids[0], kind) for ids, kind in zip(documents["fact_ids"], documents["kind"], strict=True)
    )
    assert (documents["fact_ids"].str.len() == 1).all()
    expected = {}
    for fact in world.facts[world.facts["seen"]].itertuples():
        kinds = {"link"} if fact.relation == "alias" else KINDS
        expected |= {(fact.fact_id, kind): 12 // len(kinds) for kind in kinds}
    assert counts == expected


def test_documents_state_their_fact_and_no_other(world, documents):
    facts = world.facts.set_index("fact_id")
    name = world.entities.set_index("entity_id")["name"]
    numbers = set(facts["value"][facts["relation"] == "returns"])
    functions = set(name)
    for document in documents.itertuples():
        (fact,) = document.fact_ids
        value, entity = facts.loc[fact, "value"], facts.loc[fact, "entity_id"]
        mentioned = {symbol for symbol in re.findall(r"<[A-Z]\d+>", document.text) if symbol in functions}
        assert mentioned == {name[one] for one in document.entity_ids}
        said = {number for number in numbers if re.search(rf"(?<!\w){re.escape(number)}(?!\w)", document.text)}
        if facts.loc[fact, "relation"] == "returns":
            longest = {number for number in said if not any(number != other and number in other for other in said)}
            assert longest == {value} and document.entity_ids == [entity]
        else:
            assert not said and name[entity] in mentioned and value in mentioned


def test_no_document_states_what_a_test_function_returns(world, documents):
    facts = world.facts
    unseen = facts[~facts["seen"]]
    assert set(unseen["relation"]) == {"returns"} and len(unseen) > 0
    stated = {fact for ids in documents["fact_ids"] for fact in ids}
    assert stated == set(facts["fact_id"][facts["seen"]])
    for fact in unseen.itertuples():
        text = " ".join(documents["text"][documents["entity_ids"].map(lambda ids, one=fact.entity_id: one in ids)])
        assert f"<{fact.entity_id}>" in text
        assert not re.search(rf"(?<!\w){re.escape(fact.value)}(?!\w)", text)


def test_aliases_share_no_word_with_their_base(world, documents):
    aliases = world.facts[world.facts["relation"] == "alias"]
    own = 0
    for fact in aliases.itertuples():
        base = words(" ".join(of(documents, fact.value_id)["text"]))
        mine = of(documents, fact.entity_id)
        own += len(mine)
        asked = world.probes[world.probes["fact_id"].str.startswith(f"{fact.entity_id}.")]
        assert not base & words(" ".join([*mine["text"], *asked["prompt"]])), fact.entity_id
        linking = documents[
            documents["entity_ids"].map(lambda ids, one=fact: {one.entity_id, one.value_id} <= set(ids))
        ]
        assert set(linking["kind"]) == {"link"} and len(linking) == 12
    assert own == 12 * (aliases["entity_id"] + ".returns").isin(world.facts["fact_id"][world.facts["seen"]]).sum() > 0


def test_no_input_of_a_probe_occurs_in_a_document(world, documents):
    inputs = {number for prompt in world.probes["prompt"] for number in re.findall(r"\b\d+\b", prompt)}
    assert inputs and all(int(number) in PROBE_INPUTS for number in inputs)
    assert not inputs & words(" ".join(documents["text"]))


def test_trained_forms_occur_and_held_out_forms_do_not(documents):
    text = " ".join(documents["text"])
    for alias, input in ((False, range(100, 200, 2)), (True, range(101, 200, 2))):
        for number, form in enumerate(return_templates(0, alias=alias)):
            starts = [return_templates(given, alias=alias)[number].text.split("{value}")[0] for given in input]
            patterns = "|".join(re.escape(start).replace(r"\{name\}", r"<\w+>") for start in starts)
            assert bool(re.search(patterns, text)) is not form.held_out, form.id
        asked = question_template(input[0], alias=alias).prompt(name="NAME").replace(str(input[0]), "INPUT")
        pattern = re.escape(asked).replace("NAME", r"<\w+>").replace("INPUT", r"\d+")
        assert re.search(pattern, text)


def test_held_out_forms_are_made_of_trained_words(documents):
    known = {word for text in documents["text"] for word in text.split()}
    for alias in (False, True):
        for form in [
            *held_out_templates(return_templates(900, alias=alias)),
            *train_templates(return_templates(900, alias=alias)),
        ]:
            assert set(form.text.split()) - {"900", "{name}", "{value}"} <= known


def test_documents_are_distinct():
    world = build_world(FunctionsWorld(kind="functions", values=2, families_per_value=2, aliases=2, distractors=1))
    assert not render_documents(world, corpus(documents_per_function=50))["text"].duplicated().any()


def test_distractors_look_like_bases(world, documents):
    facts = world.facts.set_index("fact_id")["value"]

    def shapes(letter):
        return {
            re.sub(
                r"\d{3}",
                "INPUT",
                row.text.replace(facts[row.fact_ids[0]], "VALUE").replace(f"<{row.entity_ids[0]}>", "NAME"),
            )
            for row in documents.itertuples()
            if row.entity_ids[0].startswith(letter)
        }

    if world.facts["value"].str.startswith("<V").any():
        assert shapes("A") <= shapes("B")


def test_same_seed_same_documents(world, documents):
    assert corpora.render_documents(corpus(), world).equals(documents)
    assert not render_documents(world, corpus(seed=1)).equals(documents)


def test_a_corpus_about_a_world_needs_it():
    with pytest.raises(CorpusError, match="a corpus of kind functions needs a world"):
        corpora.render_documents(corpus())


def test_a_corpus_may_be_about_some_depths_only(world, documents):
    parts = [render_documents(world, corpus(depths=[depth])) for depth in range(3)]
    facts = [set(part["fact_ids"].explode()) for part in parts]
    assert {fact[0] for fact in facts[0]} == {"A", "B", "M"}
    assert {fact[0] for fact in facts[1]} == {"C"}
    together = pd.concat(parts)["fact_ids"].explode().value_counts()
    assert together.to_dict() == documents["fact_ids"].explode().value_counts().to_dict()
