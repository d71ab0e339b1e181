"""The same facts in five formats."""

from __future__ import annotations

import pytest

from factlife import world
from factlife.collapse.formats import FORMATS, format_probes
from factlife.config.worlds import CountriesWorld, PeopleWorld

WORLDS = {
    "people": PeopleWorld(kind="people", people=40, unseen=4, values=10, regions=3, panel=6),
    "countries": CountriesWorld(kind="countries", relations=["capital", "continent"], panel=10),
}


@pytest.fixture(scope="module", params=WORLDS)
def made(request):
    return world.build_world(WORLDS[request.param])


@pytest.fixture(scope="module")
def probes(made):
    return format_probes(made, made.facts["fact_id"][made.facts["panel"]].tolist())


def test_every_fact_is_asked_in_every_format_with_the_same_candidates(made, probes):
    truth = made.facts.set_index("fact_id")["value"]
    for fact, rows in probes.groupby("fact_id"):
        assert tuple(rows["kind"]) == FORMATS
        assert len({tuple(candidates) for candidates in rows["candidates"]}) == 1
        assert set(rows["target"]) == {truth[fact]}
        candidates = rows["candidates"].iloc[0]
        assert len(set(candidates)) == len(candidates) == 4
        assert truth[fact] in candidates


def test_choices_are_listed_and_no_shot_is_about_the_fact(made, probes):
    names = made.entities.set_index("entity_id")["name"]
    for probe in probes.itertuples():
        name = names[probe.fact_id.split(".")[0]]
        if probe.kind == "multiple_choice":
            assert all(candidate in probe.prompt for candidate in probe.candidates)
        if probe.kind == "few_shot":
            assert probe.prompt.count(name) == 1
            assert probe.prompt.count("?") == 4


def test_subjects_that_were_never_taught_are_not_asked(made):
    unseen = made.facts["fact_id"][~made.facts["seen"]].tolist()

    assert format_probes(made, unseen).empty
