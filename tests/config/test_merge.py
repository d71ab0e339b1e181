"""The user's config on top of the default scenario."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config
from factlife.config.merge import merge_mappings, resolve, unlisted_sections

SCENARIO = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
DEFAULT = {
    "run": {"models": ["toy"], "experiments": ["curriculum"]},
    "defaults": {"tracing": {"facts": 50}},
    "models": {
        "toy": {
            "source": {"kind": "scratch", "architecture": "GPTNeoXForCausalLM"},
            "stages": ["recall", "tracing"],
            "tracing": {"noise_samples": 3},
            "editing": {"editors": ["toy-memit"]},
        }
    },
    "editors": {"toy-memit": {"kind": "memit", "layers": [2, 3], "values": {"clamp_norm_factor": 0.85}}},
}


@pytest.mark.parametrize(
    ("base", "change", "merged"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}}, {"a": 1, "b": {"c": 4, "d": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"kind": "x", "b": 1}}, {"a": {"kind": "x"}}, {"a": {"kind": "x"}}),
        ({"a": {"kind": "x", "b": 1}}, {"a": {"c": 2}}, {"a": {"kind": "x", "b": 1, "c": 2}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
    ],
)
def test_merge(base, change, merged):
    assert merge_mappings(base, change) == merged


def test_a_preset_inherits_nothing_from_a_default_entry_of_its_name():
    user = {"editors": {"toy-memit": {"kind": "memit", "preset": "gpt2-xl"}}}
    assert resolve(DEFAULT, user)["editors"] == user["editors"]


def test_an_entry_without_kind_changes_the_default_entry():
    config = resolve(DEFAULT, {"editors": {"toy-memit": {"layers": [1]}}})
    assert config["editors"]["toy-memit"] == DEFAULT["editors"]["toy-memit"] | {"layers": [1]}


def test_a_models_section_lies_on_top_of_the_defaults():
    assert resolve(DEFAULT, {})["models"]["toy"]["tracing"] == {"facts": 50, "noise_samples": 3}
    config = resolve(
        DEFAULT, {"defaults": {"tracing": {"facts": 9}}, "models": {"toy": {"tracing": {"noise_samples": 4}}}}
    )
    assert config["models"]["toy"]["tracing"] == {"facts": 9, "noise_samples": 4}


def test_a_default_section_of_a_stage_that_is_not_listed_is_dropped():
    assert "editing" not in resolve(DEFAULT, {})["models"]["toy"]
    listed = resolve(DEFAULT, {"models": {"toy": {"stages": ["editing"]}}})["models"]["toy"]
    assert listed["editing"] == {"editors": ["toy-memit"]} and "tracing" not in listed


def test_a_users_section_of_a_stage_that_is_not_listed_is_a_problem():
    user = {"models": {"toy": {"editing": {"editors": ["rome"]}}}}
    assert list(unlisted_sections(user, resolve(DEFAULT, user))) == [
        "models.toy.editing is a section of a stage that is not run; add `editing` to models.toy.stages, or delete the section"
    ]
    assert not list(unlisted_sections({}, resolve(DEFAULT, {})))


@pytest.mark.parametrize(
    ("run", "experiments"),
    [({}, ["curriculum"]), ({"models": ["toy"]}, []), ({"models": ["toy"], "experiments": ["reversal"]}, ["reversal"])],
)
def test_models_without_experiments_run_none(run, experiments):
    assert resolve(DEFAULT, {"run": run})["run"]["experiments"] == experiments


@pytest.mark.parametrize(
    "user", [{"models": 3}, {"run": None}, {"models": {"toy": None}}, {"models": {"toy": {"stages": 1}}}]
)
def test_a_malformed_config_is_left_to_the_types(user):
    assert resolve(DEFAULT, user)
    assert not list(unlisted_sections(user, resolve(DEFAULT, user)))


def test_a_users_section_of_a_stage_that_is_not_listed_is_an_error():
    with pytest.raises(ConfigError) as error:
        read_config(SCENARIO, {"models": {"functions": {"tracing": {"facts": 3}}}})
    assert str(error.value) == (
        "models.functions.tracing is a section of a stage that is not run; add `tracing` to models.functions.stages, or "
        "delete the section"
    )


def test_a_run_of_some_stages_drops_the_sections_of_the_others():
    settings = read_config(SCENARIO, {"models": {"people-pieces": {"stages": ["recall", "tracing"]}}})
    model = settings.models["people-pieces"]
    assert model.tracing.noise_samples == SCENARIO["defaults"]["tracing"]["noise_samples"]
    assert model.editing is model.collapse is model.circuits is None
    assert [name for name, _ in settings.running("tracing")] == ["people-pieces", "people-ordinary"]


def test_a_listed_stage_needs_no_section():
    stages = ["recall", "tracing", "circuits", "saes", "graphs", "editing", "influence", "collapse"]
    settings = read_config(SCENARIO, {"models": {"people-whole": {"stages": stages}}})
    model = settings.models["people-whole"]
    assert model.saes.dictionaries == ["transcoder"] and model.graphs.transcoder == "transcoder"
    assert model.editing.editors == ["memit"] and model.editing.covariance == "people"
    assert model.circuits.relations == settings.worlds["people"].relations
    assert model.influence.rankers == model.collapse.arms == []


def test_a_source_of_another_kind_inherits_nothing():
    source = {"kind": "hub", "repo_id": "a/b", "revision": "c"}
    model = {"source": source, "tokenizer": None, "training": None}
    settings = read_config(SCENARIO, {"run": {"models": ["few-people-varied"]}, "models": {"few-people-varied": model}})
    assert settings.models["few-people-varied"].source.model_dump() == source
