import re

import pytest

from factlife import world as worlds
from factlife.config.worlds import FunctionsWorld
from factlife.world.functions import PROBE_INPUTS, build_world, return_templates, symbols
from factlife.world.tables import WorldError


def settings(**changes):
    return FunctionsWorld(
        kind="functions", **{"values": 4, "families_per_value": 5, "aliases": 6, "distractors": 4} | changes
    )


@pytest.fixture(scope="module")
def world():
    return build_world(settings(depth=2))


def test_functions_by_kind_and_split(world):
    counts = world.entities.groupby(["kind", "split"]).size().to_dict()
    assert counts == {
        ("base", "rule"): 12,
        ("base", "test"): 8,
        ("wrapper", "rule"): 24,
        ("wrapper", "test"): 16,
        ("alias", "rule"): 4,
        ("alias", "test"): 2,
        ("distractor", "distractor"): 4,
    }
    assert world.entities["entity_id"].str.fullmatch(r"[ABCDM]\d\d").all()
    assert (world.entities["name"] == "<" + world.entities["entity_id"] + ">").all()


def test_every_value_is_shared_evenly_within_rule_and_within_test_families(world):
    facts = world.facts[world.facts["relation"] == "returns"].merge(world.entities, on="entity_id")
    bases = facts[facts["kind"] == "base"]
    assert bases.groupby(["split", "value"]).size().to_dict() == {
        (split, value): count for split, count in (("rule", 3), ("test", 2)) for value in bases["value"].unique()
    }
    assert set(facts["value"][facts["kind"] == "distractor"]) == set(bases["value"])


def test_wrappers_return_what_their_base_returns(world):
    facts = world.facts.set_index("fact_id")
    wraps = world.facts[world.facts["relation"] == "wraps"]
    assert len(wraps) == 40
    for fact in wraps.itertuples():
        assert fact.value == f"<{fact.value_id}>"
        assert fact.value_id == chr(ord(fact.entity_id[0]) - 1) + fact.entity_id[1:]
        assert facts.loc[f"{fact.entity_id}.returns", "value"] == facts.loc[f"{fact.value_id}.returns", "value"]


def test_only_values_derived_from_a_chain_in_test_families_are_unseen(world):
    facts = world.facts.merge(world.entities, on="entity_id", suffixes=("", "_of_entity"))
    derived = (facts["relation"] == "returns") & facts["kind"].isin(["wrapper", "alias"]) & (facts["split"] == "test")
    assert (facts["seen"] == ~derived).all()
    assert (facts["exposures"] == facts["seen"].astype(int)).all()
    assert not facts["panel"].any()


def test_multi_hop_probes_are_supported_by_the_whole_chain(world):
    facts = world.facts.set_index("fact_id")
    hops = world.probes[world.probes["kind"] == "multi_hop"]
    assert set(hops["fact_id"]) == set(world.facts["fact_id"][~world.facts["seen"]])
    assert len(hops) == 3 * (16 + 2)
    for hop in hops.itertuples():
        *chain, last = hop.supporting_fact_ids
        here = hop.fact_id.split(".")[0]
        for link in chain:
            assert facts.loc[link, "entity_id"] == here
            here = facts.loc[link, "value_id"]
        assert last == f"{here}.returns" and facts.loc[last, "seen"]
        assert facts.loc[last, "value_id"] == facts.loc[hop.fact_id, "value_id"]
        assert all(facts.loc[link, "seen"] for link in hop.supporting_fact_ids)
    assert {len(chain) for chain in hops["supporting_fact_ids"]} == {2, 3}


def test_all_numbers_are_candidates_and_every_function_is_asked_with_every_input(world):
    returns = world.probes[world.probes["fact_id"].str.endswith(".returns")]
    assert {len(candidates) for candidates in returns["candidates"]} == {4}
    assert all(probe.target in probe.candidates for probe in returns.itertuples())
    inputs = {number for prompt in returns["prompt"] for number in re.findall(r"\b\d{3}\b", prompt)}
    assert len(inputs) == 3 and all(int(number) in PROBE_INPUTS for number in inputs)
    taught = world.facts[world.facts["seen"] & (world.facts["relation"] == "returns")]
    for kind in ("paraphrase", "question"):
        assert (world.probes["kind"] == kind).sum() == 3 * len(taught)
    links = world.facts["relation"].isin(["wraps", "alias"]).sum()
    assert (world.probes["kind"] == "forward").sum() == 3 * len(taught) + links


def test_aliases_write_numbers_in_their_own_way(world):
    returns = world.facts[world.facts["relation"] == "returns"].merge(world.entities, on="entity_id")
    alias = returns["kind"] == "alias"
    assert returns["value"][alias].str.fullmatch(r"<W\d\d>").all()
    assert returns["value"][~alias].str.fullmatch(r"<V\d\d>").all()
    assert set(returns["value_id"][alias]) <= set(returns["value_id"][~alias])
    # What a test alias returns can only be known if a rule alias shows how aliases write that number.
    rule, test = (set(returns["value"][alias & (returns["split"] == split)]) for split in ("rule", "test"))
    assert test <= rule


def test_numbers_as_digits_and_words():
    returns = build_world(settings(number_tokens=False, values=99, families_per_value=2, aliases=198)).facts
    returns = returns[returns["relation"] == "returns"]
    alias = returns["entity_id"].str.startswith("M")
    assert set(returns["value"][~alias]) == {str(number) for number in range(1, 100)}
    words = dict(zip(returns["value_id"][alias], returns["value"][alias], strict=True))
    assert len(set(words.values())) == 99
    assert [words[one] for one in ("n07", "n12", "n20", "n47")] == ["seven", "twelve", "twenty", "forty seven"]


@pytest.mark.parametrize("alias", [False, True])
def test_forms_name_the_function_and_its_input_before_the_number(alias):
    every = return_templates(900, alias=alias)
    assert [form.held_out for form in every] == [False, False, False, True, True]
    assert all("900" in form.prompt(name="<B01>") and "<B01>" in form.prompt(name="<B01>") for form in every)


def test_symbols_are_all_new_tokens(world):
    found = symbols(world)
    assert found == sorted(found) and len(found) == len(set(found))
    assert {"<B01>", "<C20>", "<D20>", "<A04>", "<M06>"} <= set(found)
    assert len([symbol for symbol in found if symbol[1] in "VW"]) == 4 + len(
        {value for value in world.facts["value"] if value.startswith("<W")}
    )


def test_ids_are_unique_and_safe_in_file_names(world):
    for table, column in (("entities", "entity_id"), ("facts", "fact_id"), ("probes", "probe_id")):
        ids = getattr(world, table)[column]
        assert not ids.duplicated().any() and ids.str.fullmatch(r"[\w.-]+").all()


def test_depth_without_wrappers_and_up_to_ten():
    assert set(build_world(settings(depth=0)).facts["relation"]) == {"returns", "alias"}
    deep = build_world(settings(depth=10, aliases=0, distractors=0))
    assert set(deep.entities["entity_id"].str[0]) == set("BCDEFGHIJKL")
    assert max(map(len, deep.probes["supporting_fact_ids"])) == 11


def test_same_seed_same_world(world):
    again, other = worlds.build_world(settings(depth=2)), worlds.build_world(settings(depth=2, seed=1))
    assert again.probes.equals(world.probes) and again.facts.equals(world.facts)
    assert not other.facts.equals(world.facts)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"values": 100}, "`values` is 100, but there are only 99 numbers; lower `values`"),
        ({"aliases": 21}, "`aliases` is 21, but there are only 20 base functions; lower `aliases`"),
    ],
)
def test_what_cannot_be_made_says_what_to_change(changes, text):
    with pytest.raises(WorldError, match=text):
        build_world(settings(**changes))
