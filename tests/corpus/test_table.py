import collections

import pytest

from factlife.config.corpora import TableCorpus
from factlife.config.worlds import TableWorld
from factlife.corpus.documents import CorpusError
from factlife.corpus.table import render_documents
from factlife.world import build_world, load_world

FACTS = "subject,relation,object\n" + "".join(
    f"Name{number},city,City{number % 3}\nName{number},job,Job{number % 2}\n" for number in range(8)
)
TEMPLATES = """
city:
  train: ["{name} lives in {value} .", "{value} is home to {name} ."]
  held_out: ["The home of {name} is {value} ."]
  question: ["Where does {name} live ? {value} ."]
job:
  train: ["{name} works as {value} ."]
"""


def corpus(**changes):
    return TableCorpus(kind="table", world="mine", **{"statements_per_fact": 6} | changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    (folder / "facts.csv").write_text(FACTS)
    (folder / "templates.yaml").write_text(TEMPLATES)
    built = build_world(
        TableWorld(
            kind="table",
            facts=str(folder / "facts.csv"),
            templates=str(folder / "templates.yaml"),
            unseen_fraction=0.25,
        )
    )
    built.save(folder / "world")
    return load_world(folder / "world")


def test_each_taught_fact_is_stated_as_promised(world):
    documents = render_documents(world, corpus())
    counts = collections.Counter(ids[0] for ids in documents["fact_ids"])
    assert counts == {fact.fact_id: 6 for fact in world.facts.itertuples() if fact.seen}
    used = collections.Counter(tuple(ids) for ids in documents["template_ids"])
    assert used == {("city.train0",): 18, ("city.train1",): 18, ("job.train0",): 36}


def test_documents_state_the_value_of_their_subject(world):
    facts = world.facts.set_index("fact_id")
    name = world.entities.set_index("entity_id")["name"]
    for document in render_documents(world, corpus()).itertuples():
        (fact,) = document.fact_ids
        words = document.text.split()
        assert name[document.entity_ids[0]] in words and facts.loc[fact, "value"] in words
        assert sum(word.startswith(("Name", "City", "Job")) for word in words) == 2
        assert not document.text.startswith("The home of")


def test_questions_need_a_template(world):
    with pytest.raises(
        CorpusError, match=r"the relation 'job' has no `question` templates; add one .* or set `qa_per_fact` to 0"
    ):
        render_documents(world, corpus(qa_per_fact=2))
    cities = world.facts["relation"] == "city"
    world = type(world)(world.entities, world.facts[cities], world.probes)
    documents = render_documents(world, corpus(qa_per_fact=2))
    questions = documents[documents["kind"] == "question"]
    assert len(questions) == 2 * world.facts["seen"].sum()
    assert questions["text"].str.fullmatch(r"Where does Name\d live \? City\d \.").all()


def test_same_seed_same_documents(world):
    assert render_documents(world, corpus()).equals(render_documents(world, corpus()))
    assert not render_documents(world, corpus()).equals(render_documents(world, corpus(seed=1)))
