"""What is asked for, what is dropped, and what is asked about it."""

import logging

import pytest

from factlife.config.editing import EditRequests
from factlife.config.worlds import PeopleWorld
from factlife.editing.requests import (
    EditError,
    probes_from_world,
    requests_from_world,
    usable_probes,
    validate_requests,
)
from factlife.world import people


@pytest.fixture(scope="module")
def regions():
    """A world whose cities have regions."""
    return people.build_world(
        PeopleWorld(kind="people", people=16, unseen=2, values=6, regions=3, panel=6, neighbours=2)
    )


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=30))


def test_requests_give_panel_facts_another_value_of_their_relation(world, requests):
    facts = world.facts.set_index("fact_id")
    pools = world.facts.groupby("relation")["value"].agg(set)

    assert len(requests) == requests["fact_id"].nunique() == 30
    panel = facts.loc[requests["fact_id"], "panel"].tolist()
    assert panel == [True] * 24 + [False] * 6
    for row in requests.itertuples():
        assert facts.loc[row.fact_id, "value"] == row.target_true != row.target_new
        assert row.target_new in pools[row.relation]
        assert row.subject in row.prompt
        assert {fact.split(".")[0] for fact in row.related_fact_ids} == {row.entity_id}
        assert row.fact_id not in row.related_fact_ids and len(row.related_fact_ids) == len(row.related_prompts) == 5


def test_requests_are_the_same_again_and_a_smaller_number_is_their_beginning(world, requests):
    assert requests_from_world(world, EditRequests(count=30)).equals(requests)
    assert requests_from_world(world, EditRequests(count=7)).equals(requests.head(7))
    assert not requests_from_world(world, EditRequests(count=30, seed=1)).equals(requests)


def test_unusable_requests_are_flagged_and_counted(requests, tokenizer, caplog):
    bad = requests.head(8).copy()
    bad.loc[0, "target_new"] = " "
    bad.loc[1, "subject"] = "Nobody Else"
    bad.loc[2, "target_new"] = bad.loc[2, "target_true"]
    bad.loc[3, "target_new"] = "unheard-of"
    bad.loc[5, ["subject", "relation", "prompt", "target_new"]] = bad.loc[
        4, ["subject", "relation", "prompt", "target_new"]
    ]

    with caplog.at_level(logging.WARNING):
        checked = validate_requests(bad, tokenizer)

    assert checked["dropped"].tolist() == [
        "the target is empty",
        "the subject is not in the prompt",
        "the target is the old value",
        "the tokenizer cannot write the target after the prompt",
        "",
        "another request has this subject and relation",
        "",
        "",
    ]
    assert "1 of 8 requests are dropped: the subject is not in the prompt" in caplog.text


def test_nothing_to_edit_is_an_error(requests, tokenizer):
    with pytest.raises(EditError, match="no request is usable; the first: the target is empty"):
        validate_requests(requests.assign(target_new=""), tokenizer)


def test_probes_ask_for_the_new_value_and_neighbours_for_their_own(world, requests):
    probes = probes_from_world(requests, world)
    new = requests.set_index("edit_id")["target_new"]
    values = world.facts.set_index("fact_id")["value"]

    assert probes["probe_id"].is_unique
    for probe in probes[
        probes["metric"].isin(["efficacy", "paraphrase", "question", "prefixed", "negated"])
    ].itertuples():
        assert (probe.target, probe.alternative) == (new[probe.edit_id], values[probe.fact_id])
    neighbours = probes[probes["metric"].isin(["neighbourhood", "distractor"])]
    assert len(neighbours)
    for probe in neighbours.itertuples():
        assert (probe.target, probe.alternative) == (values[probe.edit_id], new[probe.edit_id])
        assert probe.fact_id != probe.edit_id and values[probe.fact_id] == probe.target
    distractor = probes[probes["metric"] == "distractor"].iloc[0]
    request = requests.set_index("edit_id").loc[distractor["edit_id"]]
    assert distractor["prompt"].startswith(f"{request['prompt']} {request['target_new']} . ")
    assert set(probes[probes["metric"] == "recall"]["fact_id"]) == set(world.facts["fact_id"][world.facts["seen"]])


def test_probes_about_other_edited_facts_are_left_out(world, requests):
    probes = probes_from_world(requests, world)
    edited = set(requests["edit_id"])

    left = usable_probes(probes, edited, {requests["edit_id"].iloc[0]})

    assert set(left["edit_id"]) == {requests["edit_id"].iloc[0], ""}
    assert not set(left[left["edit_id"] == ""]["fact_id"]) & edited
    assert not set(left[left["metric"] == "neighbourhood"]["fact_id"]) & edited


def test_what_follows_from_the_new_value_is_asked_for(regions):
    requests = requests_from_world(regions, EditRequests(count=40))
    probes = probes_from_world(requests, regions)
    values, ids = (
        regions.facts.set_index("fact_id")["value"],
        regions.facts.set_index(["relation", "value"])["value_id"],
    )
    edited = set(requests["edit_id"])

    hops = probes[probes["metric"] == "multi_hop"]

    assert len(hops) >= 4
    for probe in hops.itertuples():
        one = requests.set_index("edit_id").loc[probe.edit_id]
        city = {name: ids[one["relation"], name] for name in (one["target_new"], one["target_true"])}
        city = {name: found if isinstance(found, str) else found.iloc[0] for name, found in city.items()}
        assert probe.target == values[f"{city[one['target_new']]}.region"] != probe.alternative
        assert probe.alternative == values[f"{city[one['target_true']]}.region"]
        assert not {f"{found}.region" for found in city.values()} & edited


def test_subjects_are_asked_for_by_their_new_value(world, requests):
    probes = probes_from_world(requests, world)
    by_edit = requests.set_index("edit_id")

    for probe in probes[probes["metric"] == "reverse"].itertuples():
        one = by_edit.loc[probe.edit_id]
        assert (
            one["target_new"] in probe.prompt and probe.target == one["subject"] and one["subject"] not in probe.prompt
        )
    assert (probes["metric"] == "reverse").sum() >= 10


def test_of_a_model_that_knows_little_only_what_it_tells_is_asked(world, requests):
    probes = world.probes.set_index("probe_id")
    forward = probes[(probes["kind"] == "forward") & probes["fact_id"].isin(world.facts.query("seen")["fact_id"])]
    neighbours = probes[(probes["kind"] == "neighbourhood") & probes["fact_id"].isin(requests["fact_id"])]
    second = forward.index[forward.duplicated("fact_id")][:3]
    known = {*second, neighbours.index[0]}

    asked = probes_from_world(requests, world, known).set_index("probe_id")

    assert set(asked.index[asked["metric"] == "recall"]) == {f"{probe}.recall" for probe in second}
    assert asked.loc[f"{second[0]}.recall", "prompt"] == forward.loc[second[0], "prompt"]
    assert set(asked.index[asked["metric"] == "neighbourhood"]) == {neighbours.index[0]}
    assert set(asked.index[asked["metric"] == "distractor"]) == {f"{neighbours.index[0]}.distractor"}
    every = probes_from_world(requests, world).set_index("probe_id")
    others = [metric not in ("recall", "neighbourhood", "distractor") for metric in every["metric"]]
    assert every[others].equals(asked[~asked["metric"].isin(["recall", "neighbourhood", "distractor"])])
