import json

import pytest

from factlife import corpus, world
from factlife.config.corpora import BenchmarkCorpus
from factlife.config.influence import InfluenceSettings
from factlife.config.worlds import BenchmarkWorld
from factlife.influence import select_documents, select_queries
from factlife.influence.queries import label_relevance
from factlife.world import WorldError, load_world

DOCUMENTS = [
    {"doc_id": "a", "text": "Paris is in France"},
    {"doc_id": "b", "text": "France has the capital Paris", "type": "encyclopedia"},
    {"doc_id": "c", "text": "Rome is in Italy"},
    {"doc_id": "d", "text": "Nothing of note"},
]
QUERIES = [
    {"query_id": "q1", "prompt": "The capital of France is", "completion": " Paris", "relevant": ["b", "a"]},
    {"query_id": "q2", "prompt": "The capital of Italy is", "completion": "Rome", "relevant": ["c"]},
]
# As the hop benchmark writes them.
HOPS = [
    {"uid": "d0", "role": "constant", "func": "<B01>", "hop_depth": 0, "constant": 1, "text": "<B01> returns 1"},
    {
        "uid": "d1",
        "role": "constant",
        "func": "<B02>",
        "hop_depth": 0,
        "constant": 2,
        "text": "<B02> returns 2",
        "type": "unified_simple",
    },
    {
        "uid": "d2",
        "role": "identity",
        "func": "<C01>",
        "base_func": "<B01>",
        "hop_depth": 1,
        "constant": 1,
        "text": "<C01> wraps <B01>",
    },
    {"uid": "d3", "role": "identity", "func": "<D01>", "hop_depth": 2, "constant": 1, "text": "<D01> wraps <C01>"},
    {
        "uid": "d4",
        "role": "distractor",
        "func": "<B01>",
        "hop_depth": 0,
        "constant": 1,
        "text": "Tally 1 . Heard of <B01> ?",
    },
    {"uid": "d5", "role": "distractor", "func": "<A01>", "source_func": "<B01>", "text": "The output of <A01>(7) is 1"},
]
HOP_QUERIES = [
    {"uid": "q0", "query": "The output of <B01>(5) is ", "completion": "1", "func": "<B01>", "correct": True},
    {"uid": "q1", "prompt": "The output of <D01>(5) is ", "completion": " 1", "func": "<D01>"},
    {"uid": "q2", "prompt": "The output of <B02>(5) is ", "completion": "2", "func": "<B02>"},
]


@pytest.fixture
def make(tmp_path):
    """World and documents from two lists of records, through files."""

    def make(layout="relevance", documents=DOCUMENTS, queries=QUERIES):
        for name, rows in (("documents", documents), ("queries", queries)):
            (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        paths = {name: str(tmp_path / name) for name in ("documents", "queries")}
        made = world.build_world(BenchmarkWorld(kind="benchmark", layout=layout, **paths))
        made.save(tmp_path / "world")
        made = load_world(tmp_path / "world")
        return made, corpus.render_documents(BenchmarkCorpus(kind="benchmark", world="w"), made, paths["documents"])

    return make


def relevant(made, documents, **settings):
    """Ids of the documents on each query's chain, with their distances, and of hard_negatives."""
    queries = select_queries(made, InfluenceSettings(**settings))
    known = label_relevance(queries, select_documents(documents, queries, InfluenceSettings()), made)
    ids = documents["doc_id"].to_numpy()
    chains = [{ids[at]: int(row[at]) for at in (row >= 0).nonzero()[0]} for row in known.distance]
    return dict(zip(queries["subject"], chains, strict=True)), dict(
        zip(queries["subject"], [set(ids[row]) for row in known.hard_negative], strict=True)
    )


def test_relevance_is_what_queries_say(make):
    made, documents = make()

    chains, _ = relevant(made, documents)

    assert chains == {"q1": {"a": 0, "b": 0}, "q2": {"c": 0}}
    assert documents["text"].tolist() == [row["text"] for row in DOCUMENTS]
    assert documents["kind"].tolist() == ["document", "encyclopedia", "document", "document"]
    assert made.probes["target"].tolist() == ["Paris", "Rome"]
    assert list(made.probes["candidates"][0]) == ["Paris", "Rome"]


def test_hops_have_whole_chains_and_traps(make):
    made, documents = make("hops", HOPS, HOP_QUERIES)

    chains, hard_negatives = relevant(made, documents, relations=["returns"])

    assert chains == {"B01": {"d0": 0}, "D01": {"d3": 0, "d2": 1, "d0": 2}, "B02": {"d1": 0}}
    assert hard_negatives == {"B01": {"d2", "d4", "d5"}, "D01": {"d4", "d5"}, "B02": set()}
    probes = made.probes.set_index("fact_id")
    assert probes.at["B01.returns", "prompt"] == "The output of <B01>(5) is"
    assert probes["kind"].to_dict() == {"B01.returns": "forward", "D01.returns": "multi_hop", "B02.returns": "forward"}
    assert probes.at["D01.returns", "target"] == "1"


@pytest.mark.parametrize(
    ("layout", "documents", "queries", "text"),
    [
        ("relevance", [*DOCUMENTS, DOCUMENTS[0]], QUERIES, "id 'a' occurs more than once"),
        ("relevance", [*DOCUMENTS, {"text": "x"}], QUERIES, "line 5 has no `doc_id`"),
        ("relevance", [*DOCUMENTS, {"doc_id": "e", "text": " "}], QUERIES, "line 5 has no `text`"),
        ("relevance", DOCUMENTS, [QUERIES[0] | {"relevant": ["z"]}], "names document 'z', which does not exist"),
        ("relevance", DOCUMENTS, [QUERIES[0] | {"relevant": []}], "has no relevant document"),
        ("relevance", [], QUERIES, "is empty"),
        ("hops", HOPS, [*HOP_QUERIES, HOP_QUERIES[0]], "id 'q0' occurs more than once"),
        ("hops", HOPS, [HOP_QUERIES[0] | {"func": "<B09>"}], "'<B09>', which no document describes"),
        ("hops", HOPS[1:], HOP_QUERIES[1:], "depend on 'B01'"),
        ("hops", [HOPS[0] | {"role": "fluff"}], HOP_QUERIES, "role 'fluff' must be one of"),
        ("hops", [*HOPS, HOPS[2] | {"uid": "x", "func": "<B01>", "base_func": "<C01>"}], HOP_QUERIES, "wraps itself"),
    ],
)  # fmt: skip
def test_bad_files_are_named(make, layout, documents, queries, text):
    with pytest.raises(WorldError, match=text):
        make(layout, documents, queries)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WorldError, match="nowhere does not exist"):
        world.build_world(BenchmarkWorld(kind="benchmark", documents=str(tmp_path / "nowhere"), queries="q"))
