import itertools
import re

import pytest

from factlife.config.worlds import Levels, OrdinaryNames, PeopleWorld, PieceNames, Zipf
from factlife.world.people import (
    build_world,
    negated_templates,
    question_template,
    relation_templates,
    verb_templates,
)
from factlife.world.tables import WorldError, load_world
from factlife.world.templates import held_out_templates, train_templates

RELATIONS = PeopleWorld(kind="people").relations


def settings(**changes):
    small = {"people": 24, "unseen": 6, "values": 5, "regions": 2, "panel": 6, "neighbours": 2}
    return PeopleWorld(kind="people", **small | changes)


@pytest.fixture(scope="module")
def world():
    return build_world(settings(exposures=Levels(kind="levels", levels=[1, 2, 4])))


def test_splits_and_exposures(world):
    people = world.entities[world.entities["kind"] == "person"]
    assert people["split"].value_counts().to_dict() == {"qa_train": 12, "qa_heldout": 12, "unseen": 6}
    assert people["exposures"].value_counts().to_dict() == {0: 6, 1: 8, 2: 8, 4: 8}
    facts = world.facts.merge(people, on="entity_id", suffixes=("", "_of_person"))
    assert (facts["exposures"] == facts["exposures_of_person"]).all()
    assert (facts["seen"] == (facts["split"] != "unseen")).all()


def test_zipf_falls_with_rank_to_the_rarest():
    zipf = build_world(settings(people=10, panel=0, exposures=Zipf(kind="zipf", exponent=1.0, min_exposures=3)))
    found = zipf.entities["exposures"][zipf.entities["split"].isin(["qa_train", "qa_heldout"])]
    people = sorted(found[zipf.entities["kind"] == "person"], reverse=True)
    assert people == [round(3 * 10 / rank) for rank in range(1, 11)]


def test_every_value_equally_often_and_relations_independent():
    world = build_world(
        settings(
            people=400, names=PieceNames(style="pieces", choices=[8, 8, 8]), unseen=0, values=4, regions=0, panel=0
        )
    )
    facts = world.facts.pivot(index="entity_id", columns="relation", values="value")
    for relation in RELATIONS:
        assert set(facts[relation].value_counts()) == {100}
    for one, other in itertools.combinations(RELATIONS, 2):
        counts = facts.groupby([one, other]).size()
        # χ² with 9 degrees of freedom: 33 is passed by chance once in ten thousand.
        assert ((counts - 25) ** 2 / 25).sum() < 33, (one, other)


def test_values_of_ids_agree(world):
    assert (world.facts.groupby("value_id")["value"].nunique() == 1).all()
    assert (world.facts.groupby("value")["value_id"].nunique() == 1).all()


def test_panel_covers_every_exposure(world):
    panel = world.facts[world.facts["panel"]]
    assert panel["entity_id"].nunique() == 6 and len(panel) == 6 * len(RELATIONS)
    assert panel.drop_duplicates("entity_id")["exposures"].value_counts().to_dict() == {1: 2, 2: 2, 4: 2}


def test_cities_lie_in_regions_and_hops_follow_them(world):
    facts = world.facts.set_index("fact_id")
    hops = world.probes[world.probes["kind"] == "multi_hop"]
    assert len(hops) == 24
    for hop in hops.itertuples():
        first, second = hop.supporting_fact_ids
        assert facts.loc[first, "value_id"] == facts.loc[second, "entity_id"]
        assert facts.loc[second, "value"] == hop.target
        assert hop.prompt.endswith("in the region of")


def test_probes_by_kind(world):
    counts = world.probes["kind"].value_counts()
    cities = (world.entities["kind"] == "city").sum()
    taught = 24 * len(RELATIONS) + cities
    assert counts["forward"] == 2 * counts["paraphrase"] == 2 * taught
    assert counts["prefixed"] == counts["question"] == taught
    assert counts["unseen"] == 6 * len(RELATIONS)
    assert counts["negated"] == counts["reverse"] == 6 * len(RELATIONS)


def test_probe_ids_are_built_from_fact_and_kind(world):
    probes = world.probes
    assert not probes["probe_id"].duplicated().any()
    assert all(probe.probe_id.startswith(f"{probe.fact_id}.{probe.kind}.") for probe in probes.itertuples())
    assert probes["probe_id"].str.fullmatch(r"[\w.-]+").all()


def test_prompts_name_the_subject_and_hide_the_target(world):
    name = world.entities.set_index("entity_id")["name"]
    for probe in world.probes.itertuples():
        subject = name[probe.fact_id.split(".")[0]]
        asked = probe.kind not in ("reverse", "neighbourhood")
        assert (subject in probe.prompt) is asked
        if probe.kind != "prefixed":
            assert not re.search(rf"\b{re.escape(probe.target)}\b", probe.prompt)
        assert probe.target in probe.candidates


def test_neighbours_share_the_value_and_not_the_subject(world):
    facts = world.facts.set_index("fact_id")
    probes = world.probes[world.probes["kind"] == "neighbourhood"]
    assert len(probes) > 0
    for probe in probes.itertuples():
        (other,) = probe.supporting_fact_ids
        assert other != probe.fact_id and facts.loc[other, "seen"]
        assert facts.loc[other, "value"] == facts.loc[probe.fact_id, "value"] == probe.target


def test_wrong_subjects_of_reverse_probes_do_not_have_the_value(world):
    holders = world.facts.merge(world.entities, on="entity_id").groupby("value")["name"].agg(set)
    values = world.facts.set_index("fact_id")["value"]
    for probe in world.probes[world.probes["kind"] == "reverse"].itertuples():
        assert set(probe.candidates) & holders[values[probe.fact_id]] == {probe.target}


@pytest.mark.parametrize("relation", [*RELATIONS, "region"])
def test_held_out_templates_are_made_of_trained_parts(relation):
    every = relation_templates(relation)
    assert len({template.id for template in every}) == len(every) == 24
    assert len(held_out_templates(every)) == 4
    words = {word for template in train_templates(every) for word in template.text.split()}
    assert {word for template in held_out_templates(every) for word in template.text.split()} <= words
    for template in held_out_templates(every):
        for part in template.id.split("-"):
            assert any(part in other.id.split("-") for other in train_templates(every)), part
    assert {template.text for template in held_out_templates(every)}.isdisjoint(
        template.text for template in train_templates(every)
    )
    assert all(" not " in denial.text for denial in negated_templates(relation)) and len(
        negated_templates(relation)
    ) == len(verb_templates(relation))
    assert question_template(relation).forward


def test_same_settings_same_world_and_another_seed_another():
    one, same, other = build_world(settings()), build_world(settings()), build_world(settings(seed=1))
    for table in ("entities", "facts", "probes"):
        assert getattr(one, table).equals(getattr(same, table))
    assert not one.facts.equals(other.facts)


def test_world_survives_parquet(world, tmp_path):
    world.save(tmp_path)
    read = load_world(tmp_path)
    for table in ("entities", "facts", "probes"):
        for row, expected in zip(getattr(read, table).itertuples(), getattr(world, table).itertuples(), strict=True):
            assert [list(cell) if hasattr(cell, "shape") and cell.shape else cell for cell in row] == list(expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"panel": 25}, "`panel` is 25, but only 24 people are seen in training; lower `panel`"),
        ({"values": 300, "relations": ["major"]}, "major needs 300 distinct values, .* lower `values`"),
        ({"names": PieceNames(style="pieces", choices=[3, 3, 3])}, "30 names .* gives only 27"),
        (
            {"names": OrdinaryNames(style="ordinary"), "people": 1300},
            "1306 distinct names .* only 1200; lower `people`",
        ),
    ],
)
def test_what_cannot_be_made_says_what_to_change(changes, text):
    with pytest.raises(WorldError, match=text):
        build_world(settings(**changes))
