import pytest

from factlife.config.worlds import TableWorld
from factlife.world.table import build_world
from factlife.world.tables import WorldError, load_world

FACTS = """subject,relation,object
Ada Lovelace,field,mathematics
Ada Lovelace,city,London
Marie Curie,field,physics
Marie Curie,city,Paris
Émilie du Châtelet,field,physics
Émilie du Châtelet,city,Paris
Emmy Noether,field,mathematics
"""
TEMPLATES = """
field:
  train: ["{name} worked on {value} .", "The field of {name} is {value} .", "{value} was the field of {name} ."]
  held_out: ["{name} is known for {value} ."]
  question: ["What did {name} study ? {value} ."]
city:
  train: ["{name} lived in {value} ."]
"""


@pytest.fixture
def make(tmp_path):
    """A world from the text of its two files."""

    def make(facts=FACTS, templates=TEMPLATES, **changes):
        for name, text in (("facts.csv", facts), ("templates.yaml", templates)):
            if text is not None:
                (tmp_path / name).write_text(text, encoding="utf-8")
        paths = {"facts": str(tmp_path / "facts.csv"), "templates": str(tmp_path / "templates.yaml")}
        return build_world(TableWorld(kind="table", **paths | {"panel": 4} | changes))

    return make


def test_entities_and_facts(make):
    world = make()
    assert list(world.entities["entity_id"]) == ["e000", "e001", "e002", "e003"]
    assert list(world.entities["name"]) == ["Ada Lovelace", "Marie Curie", "Émilie du Châtelet", "Emmy Noether"]
    facts = world.facts.set_index("fact_id")
    assert facts.loc["e002.city", "value"] == "Paris"
    assert facts.loc["e002.city", "value_id"] == facts.loc["e001.city", "value_id"]
    assert (facts["exposures"] == 1).all() and facts["seen"].all()


def test_probes_of_one_fact(make):
    probes = make().probes
    asked = probes[probes["fact_id"] == "e000.field"].set_index("kind")
    assert asked.loc["paraphrase", "prompt"] == "Ada Lovelace is known for"
    assert asked.loc["question", "prompt"] == "What did Ada Lovelace study ?"
    assert asked.loc["reverse", "prompt"] == "mathematics was the field of"
    assert asked.loc["reverse", "candidates"] == ["Ada Lovelace", "Marie Curie", "Émilie du Châtelet"]
    assert asked.loc["neighbourhood", "supporting_fact_ids"] == ["e003.field"]
    assert asked.loc["neighbourhood", "prompt"].replace("Emmy Noether", "") in (" worked on", "The field of  is")
    assert asked.loc["forward", "candidates"] == ["mathematics", "physics"]
    assert asked.loc["paraphrase", "held_out_template"] and not asked.loc["forward", "held_out_template"]
    assert set(probes["kind"][probes["fact_id"] == "e001.city"]) == {"forward", "neighbourhood"}


def test_unseen_subjects_have_only_unseen_probes(make):
    world = make(unseen_fraction=0.5)
    unseen = set(world.entities["entity_id"][world.entities["split"] == "unseen"])
    assert len(unseen) == 2
    of_unseen = world.probes["fact_id"].str.split(".").str[0].isin(unseen)
    assert set(world.probes["kind"][of_unseen]) == {"unseen"}
    assert "unseen" not in set(world.probes["kind"][~of_unseen])
    assert (world.facts["seen"] == ~world.facts["entity_id"].isin(unseen)).all()
    assert not world.facts["panel"][~world.facts["seen"]].any()


def test_candidates_are_limited(make):
    rows = "subject,relation,object\n" + "".join(f"s{number},city,c{number}\n" for number in range(30))
    probes = make(facts=rows, candidates=5).probes
    assert {len(candidates) for candidates in probes["candidates"]} == {5}


def test_templates_travel_with_the_facts(make, tmp_path):
    world = make()
    world.save(tmp_path / "world")
    fact = load_world(tmp_path / "world").facts.set_index("fact_id").loc["e000.field"]
    assert list(fact["questions"]) == ["What did {name} study ? {value} ."]
    assert len(fact["templates"]) == 3 and not any("known for" in text for text in fact["templates"])


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (None, r"facts.csv does not exist; set the world's `facts` to a CSV"),
        ("subject,object\na,b\n", r"facts.csv has no column `relation`, but subject, object; its first line must name"),
        ("subject,relation,object\n", r"facts.csv has no facts below its first line"),
        ("", r"facts.csv cannot be read as CSV"),
        ("subject,relation,object\na,city,b\na,city,c\n", r"facts.csv, fact 2: a has a second city \(c\)"),
        ("subject,relation,object\na,city,b\n  ,city,c\n", r"facts.csv, fact 2: subject is empty"),
        ("subject,relation,object\na,city,\n", r"facts.csv, fact 1: object is empty"),
        (
            "subject,relation,object\nAda,city,b\nada,field,c\n",
            r"'Ada' and 'ada' differ only in case; use one spelling",
        ),
        ("subject,relation,object\na,home town,b\n", r"relation 'home town' becomes part of file names"),
        ("subject,relation,object\na,cty,b\n", r"templates.yaml has no templates for the relation 'cty'.* 'city'"),
    ],
)
def test_bad_facts(make, facts, text):
    with pytest.raises(WorldError, match=text):
        make(facts=facts)


@pytest.mark.parametrize(
    ("templates", "text"),
    [
        (None, r"templates.yaml does not exist; .* templates of field, city"),
        ("field: [", r"templates.yaml cannot be read as YAML"),
        ("- field", r"templates.yaml must map each relation to its lists"),
        ("field: ['{name} {value}']", r"templates.yaml, relation 'field' must hold lists named train"),
        (
            "field: {train: ['{name} studied.']}",
            r"relation 'field': template 'train0' .* the slot \{value\} exactly once",
        ),
        ("field: {train: '{name} {value}'}", r"relation 'field': `train` must be a list of sentences"),
        ("field: {heldout: []}", r"'heldout' is none of the lists .* did you mean 'held_out'\?"),
        ("field: {train: []}", r"`train` must have a template with \{name\} before \{value\}"),
        ("field: {train: ['{value} of {name}']}", r"`train` must have a template with \{name\} before \{value\}"),
        (
            "field: {train: ['{name} {value}'], held_out: ['{value} {name}']}",
            r"template 'held_out0' .* must have \{name\} before \{value\}",
        ),
        ("field: {train: ['{name} {value}'], held_out: ['{name} {value}']}", r"is in `train` and in `held_out`"),
    ],
)
def test_bad_templates(make, templates, text):
    with pytest.raises(WorldError, match=text):
        make(templates=templates)
