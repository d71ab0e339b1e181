import logging
import re

import pytest

from factlife.config.worlds import CountriesWorld
from factlife.world.countries import build_world
from factlife.world.tables import WorldError


@pytest.fixture(scope="module")
def world():
    return build_world(CountriesWorld(kind="countries"))


@pytest.mark.parametrize(
    ("fact_id", "value"),
    [
        ("fr.capital", "Paris"),
        ("us.currency", "dollar"),
        ("gb.currency", "pound"),
        ("ch.currency", "franc"),
        ("cn.currency", "yuan"),
        ("fr.currency", "euro"),
        ("gr.language", "Greek"),
        ("br.language", "Portuguese"),
        ("br.continent", "South America"),
        ("mx.continent", "North America"),
        ("jp.continent", "Asia"),
        ("au.continent", "Oceania"),
        ("nl.demonym", "Dutch"),
    ],
)
def test_known_facts(world, fact_id, value):
    assert world.facts.set_index("fact_id").loc[fact_id, "value"] == value


@pytest.mark.parametrize("fact_id", ["lu.capital", "pa.capital", "dj.demonym", "ch.language", "aq.continent"])
def test_facts_without_one_plain_answer_are_left_out(world, fact_id):
    assert fact_id not in set(world.facts["fact_id"])


def test_left_out_facts_are_counted_in_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="factlife.world.countries"):
        found = build_world(CountriesWorld(kind="countries", relations=["language"], panel=0))
    line = next(message for message in caplog.messages if message.startswith("language"))
    left_out = int(re.search(r"skipped (\d+):", line).group(1))
    assert left_out == sum(map(int, re.findall(r"(\d+) with", line)))
    assert re.search(r"\d+ with several values", line)
    everyone = build_world(CountriesWorld(kind="countries", relations=["language", "continent"], panel=0))
    assert len(found.facts) + left_out >= len(everyone.entities)


def test_answers_are_words_of_their_kind(world):
    facts = world.facts
    assert set(facts["value"][facts["relation"] == "continent"]) == {
        "Africa", "Asia", "Europe", "North America", "Oceania", "South America",
    }  # fmt: skip
    assert facts["value"][facts["relation"] == "currency"].str.fullmatch(r"[a-z’]+").all()
    assert not facts["value"].str.contains(r"[(),/]").any()
    assert facts["seen"].all() and (facts["exposures"] == 0).all()
    assert set(world.entities["split"]) == {"pretrained"}


def test_prompts_are_natural_and_do_not_tell_the_answer(world):
    for probe in world.probes.itertuples():
        assert probe.prompt == probe.prompt.strip() and "  " not in probe.prompt and "{" not in probe.prompt
        assert probe.prompt[0].isupper()
        if probe.kind != "reverse":
            assert not re.search(rf"\b{re.escape(probe.target)}\b", probe.prompt), probe.prompt
        assert probe.target in probe.candidates and list(probe.candidates) == sorted(set(probe.candidates))
        assert len(probe.candidates) <= 20
    prompts = world.probes.set_index("probe_id")["prompt"]
    assert prompts["nl.capital.forward.forward0"] == "The capital city of the Netherlands is the city of"
    assert prompts["fr.capital.reverse.reverse"] == "The city of Paris is the capital city of"


def test_kinds_and_counts(world):
    counts = world.probes["kind"].value_counts()
    assert set(counts.index) == {
        "forward",
        "paraphrase",
        "question",
        "reverse",
        "multi_hop",
        "negated",
        "neighbourhood",
    }
    assert counts["paraphrase"] == counts["question"] == len(world.facts)
    assert counts["forward"] == len(world.facts) + 100
    assert counts["negated"] == 100 and counts["neighbourhood"] == 300
    assert 2000 <= len(world.probes) <= 4500


def test_panel_has_every_relation(world):
    panel = world.facts[world.facts["panel"]]
    assert len(panel) == 100 and panel["entity_id"].nunique() == 20


def test_hops_go_through_the_capital(world):
    facts = world.facts.set_index("fact_id")
    for hop in world.probes[world.probes["kind"] == "multi_hop"].itertuples():
        capital, asked = hop.supporting_fact_ids
        assert asked == hop.fact_id and facts.loc[capital, "entity_id"] == facts.loc[asked, "entity_id"]
        assert facts.loc[capital, "value"] in hop.prompt
        assert facts.loc[asked, "value"] == hop.target


def test_neighbours_share_the_value_where_anybody_does(world):
    facts = world.facts.set_index("fact_id")
    for probe in world.probes[world.probes["kind"] == "neighbourhood"].itertuples():
        (other,) = probe.supporting_fact_ids
        assert other != probe.fact_id and facts.loc[other, "value"] == probe.target
        if facts.loc[probe.fact_id, "relation"] == "continent":
            assert probe.target == facts.loc[probe.fact_id, "value"]


def test_too_large_a_panel():
    with pytest.raises(WorldError, match=r"`panel` is 300, but only \d+ countries have .* lower `panel`"):
        build_world(CountriesWorld(kind="countries", panel=300))
