import numpy as np
import pytest

from factlife.config.influence import InfluenceSettings
from factlife.influence import InfluenceError, select_documents, select_queries
from factlife.influence.queries import label_relevance


def test_chains_end_at_the_base(queries):
    for query in queries.itertuples():
        letter, number = query.subject[0], query.subject[1:]
        depth = "BCD".find(letter)
        assert query.depth == (1 if letter == "M" else depth)
        if depth >= 0:
            assert f"B{number}.returns" in query.chain
            assert query.chain[f"B{number}.returns"] == depth
            wrapped = {f"{name}{number}.wraps" for name in "BCD"[1 : depth + 1]}
            assert {fact for fact in query.chain if fact.endswith("wraps")} == wrapped


def test_wrappers_are_not_relevant_to_a_query_about_their_base(queries, documents, functions):
    relevance = label_relevance(queries, documents, functions)
    row = int((queries["subject"] == "B01").argmax())
    stated = documents["fact_ids"].str[0]

    assert set(stated[relevance.distance[row] >= 0]) == {"B01.returns"}
    assert {"C01.wraps"} <= set(stated[relevance.hard_negative[row]])


def test_relevance_matches_a_slow_implementation(queries, documents, functions):
    relevance = label_relevance(queries, documents, functions)
    facts = functions.facts.set_index("fact_id")
    kinds = functions.entities.set_index("entity_id")["kind"]
    for row, query in enumerate(queries.itertuples()):
        base = facts.loc[
            next(fact for fact, steps in query.chain.items() if steps == query.depth and fact.endswith("returns"))
        ]
        for column, document in enumerate(documents.itertuples()):
            (fact,) = document.fact_ids
            assert relevance.distance[row, column] == query.chain.get(fact, -1)
            assert relevance.terminal[row, column] == (fact == base.name)
            other = facts.loc[fact]
            same_value = other["value_id"] == base["value_id"] and kinds[other["entity_id"]] == "base"
            assert relevance.same_value[row, column] == (same_value and fact not in query.chain)
    assert not (relevance.hard_negative & (relevance.distance >= 0)).any()
    np.testing.assert_array_equal(relevance.gain[relevance.distance == 2], 1 / 3)


def test_selected_documents_include_a_relevant_one_for_every_query(documents, queries, functions):
    selected = select_documents(documents, queries, InfluenceSettings(documents=60))

    assert len(selected) == 60 and selected["doc_id"].is_unique
    assert (label_relevance(queries, selected, functions).distance >= 0).any(1).all()
    assert select_documents(documents, queries, InfluenceSettings(documents=60)).equals(selected)
    assert len(select_documents(documents, queries, InfluenceSettings())) == len(documents)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.assign(doc_id="d0"), "'d0' occurs more than once"),
        (lambda d: d.assign(doc_id=[None, *d["doc_id"][1:]]), "document 0 has no doc_id"),
        (lambda d: d.assign(text=[" ", *d["text"][1:]]), "is empty"),
    ],
)
def test_bad_documents_are_named(documents, queries, change, text):
    with pytest.raises(InfluenceError, match=text):
        select_documents(change(documents.reset_index(drop=True)), queries, InfluenceSettings())


def test_a_query_without_relevant_documents_is_named(documents, queries, functions):
    others = documents[documents["fact_ids"].str[0] != "B01.returns"].reset_index(drop=True)
    with pytest.raises(InfluenceError, match=r"behind query B01\.returns"):
        label_relevance(queries, others, functions)


def test_no_matching_probe_is_an_error(functions):
    with pytest.raises(InfluenceError, match="no probe"):
        select_queries(functions, InfluenceSettings(probe_kinds=["reverse"]))
