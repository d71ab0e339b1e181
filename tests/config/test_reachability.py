"""References are checked only where the run reaches them; a name twice in a list is an error everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config
from factlife.config.reachability import reachable_corpora, reachable_models

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
RUN = {"models": ["people-whole"]}
# A model with a wrong world, corpus and tokenizer.
BROKEN = {
    "world": "nowhere",
    "tokenizer": "none",
    "source": {"kind": "scratch", "architecture": "LlamaForCausalLM"},
    "training": {"corpus": "nothing"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"models": {"broken": BROKEN}},
        {"corpora": {"broken": {"kind": "people", "world": "nowhere"}}},
        {"corpora": {"broken": {"kind": "text"}}},
        {"tokenizers": {"broken": {"kind": "bpe", "corpus": "nothing"}}},
        {"experiments": {"broken": {"comparison": "learning", "control": "a", "arms": {"b": ["nobody"]}}}},
        {"editors": {"broken": {"kind": "mend", "hypernetwork": "none"}}},
        {"covariances": {"broken": {"corpus": "nothing"}}},
        {"dictionaries": {"broken": {"kind": "sae", "corpus": "nothing"}}},
        {"hypotheses": {"broken": {"claim": "none", "component": "m0", "relation": "hobby"}}},
        {"collapse": {"arms": {"broken": {"control": "none", "tasks": ["none"]}}}},
        {"models": {"people-pieces": {"editing": {"editors": ["none"]}, "circuits": {"relations": ["hobby"]}}}},
    ],
)
def test_definitions_that_the_run_does_not_reach_are_not_checked(change):
    assert read_config(DEFAULT, change | {"run": RUN})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": {"models": ["broken"]}}, "models.broken.world is `nowhere`, which is not in worlds"),
        (
            {"models": {"heir": {"world": "people", "source": {"kind": "trained", "model": "broken"}, "training": {"corpus": "people"}}},
             "run": {"models": ["heir"]}},
            "models.broken.world is `nowhere`, which is not in worlds",
        ),
        (
            {"experiments": {"new": {"comparison": "learning", "control": "a", "arms": {"a": ["people-whole"], "b": ["broken"]}}},
             "run": RUN | {"experiments": ["new"]}},
            "models.broken.world is `nowhere`, which is not in worlds",
        ),
        (
            {"corpora": {"letters": {"kind": "written", "world": "people", "answers": "a.jsonl", "writer": {"kind": "model", "model": "broken"}}},
             "models": {"people-whole": {"training": {"corpus": "letters"}}}, "run": RUN},
            "models.broken.world is `nowhere`, which is not in worlds",
        ),
        (
            {"tokenizers": {"people-whole": {"corpus": "nothing"}}, "run": RUN},
            "tokenizers.people-whole.corpus is `nothing`, which is not in corpora",
        ),
    ],
)  # fmt: skip
def test_definitions_that_the_run_reaches_are_checked(change, message):
    change = change | {"models": {"broken": BROKEN} | change.get("models", {})}
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    assert message in str(error.value)


def test_models_of_experiments_and_their_ancestors_are_reached():
    change = {"run": RUN | {"experiments": ["interference"]}}
    settings = read_config(DEFAULT, change)
    assert set(reachable_models(settings)) == {
        "people-whole",
        "few-people-late",
        "few-people-late-replay",
        "few-people-varied",
    }
    # A tokenizer has a corpus of its own.
    assert set(reachable_corpora(settings)) == {
        "people",
        "few-people",
        "few-people-late",
        "few-people-late-replay",
        "few-people-varied",
    }


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"run": {"models": ["people-whole"] * 2}}, "run.models"),
        ({"run": {"report_to": ["wandb"] * 2}}, "run.report_to"),
        ({"worlds": {"people": {"relations": ["major"] * 2}}}, "worlds.people.relations"),
        ({"models": {"people-pieces": {"stages": ["recall"] * 2}}}, "models.people-pieces.stages"),
        ({"models": {"people-pieces": {"collapse": {"arms": ["replace"] * 2}}}}, "models.people-pieces.collapse.arms"),
        ({"models": {"people-pieces": {"tracing": {"corruptions": ["noise"] * 2}}}}, "models.people-pieces.tracing.corruptions"),
        ({"experiments": {"curriculum": {"arms": {"at-once": ["functions"] * 2}}}}, "experiments.curriculum.arms.at-once"),
        ({"collapse": {"tasks": {"relations": {"scoring": ["text"] * 2}}}}, "collapse.tasks.relations.scoring"),
        ({"editors": {"mine": {"kind": "ultraedit", "modules": ["a"] * 2}}}, "editors.mine.modules"),
    ],
)  # fmt: skip
def test_a_name_twice_in_a_list_is_an_error(change, where):
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    assert f"{where} has duplicates" in str(error.value).splitlines()


def test_lists_of_numbers_and_of_an_architecture_may_repeat_values():
    change = {
        "worlds": {"people": {"names": {"style": "pieces", "choices": [6, 6, 6]}}},
        "models": {"people-whole": {"source": {"config": {"layer_types": ["full_attention"] * 4}}}},
    }
    assert read_config(DEFAULT, change)
