"""Errors of the arms that name the key and the remedy, and which generations share a folder."""

from __future__ import annotations

import pytest

from factlife.config import ConfigError, read_config
from factlife.config.collapse import generation_settings, generation_zero_arm

ARM = {"model": "m", "training": {"corpus": "people"}}
CONFIG = {
    "run": {"models": ["m"]},
    "worlds": {"people": {"kind": "people"}, "functions": {"kind": "functions"}},
    "corpora": {
        "people": {"kind": "people", "world": "people"},
        "functions": {"kind": "functions", "world": "functions"},
        "prose": {"kind": "prose"},
    },
    "tokenizers": {"t": {"kind": "bpe", "corpus": "people"}},
    "models": {
        "m": {
            "world": "people",
            "tokenizer": "t",
            "source": {"kind": "scratch", "architecture": "LlamaForCausalLM"},
            "training": {"corpus": "people"},
        }
    },
}


def config(run=("a", "control"), **keys):
    arms = {"a": ARM | {"control": "control"} | keys, "control": ARM | {"synthetic_fraction": 0}}
    return CONFIG | {"collapse": {"run": list(run), "arms": arms}}


ERRORS = {
    "a share above one": ({"synthetic_fraction": 1.2}, "collapse.arms.a.synthetic_fraction is 1.2: input should be less than or equal to 1"),
    "no share": ({"synthetic_fraction": -0.1}, "collapse.arms.a.synthetic_fraction is -0.1: input should be greater than or equal to 0"),
    "a model that is not there": ({"model": "x", "control": None}, "collapse.arms.a.model is `x`, which is not in models; there are m"),
    "a corpus that is not there": (
        {"training": {"corpus": "x"}, "control": None},
        "collapse.arms.a.training.corpus is `x`, which is not in corpora",
    ),
    "a corpus without held-out text": (
        {"training": {"corpus": "functions"}, "control": None},
        "collapse.arms.a.training.corpus: functions keeps no documents for evaluation; "
        "use one of kind people, or prose or text with a `held_out_fraction`",
    ),
    "a filter that cannot read the text": (
        {"training": {"corpus": "prose"}, "control": None, "filter": "truthful"},
        "collapse.arms.a.filter is `truthful`, which needs a corpus of kind people; use `unique` or `none`",
    ),
    "fewer texts than are learnt": (
        {"documents": 800, "control": None},
        "collapse.arms.a.samples is 480, fewer than the 800 synthetic documents of a generation; raise it",
    ),
    "recovery without a generation": (
        {"recover_after": 4},
        "collapse.arms.a.recover_after is 4: no generation is left to recover; raise `generations`",
    ),
    "a control that learns synthetic text": (
        {"control": "a"},
        "collapse.arms.a.control is `a`; must be an arm whose synthetic_fraction is 0",
    ),
    "a control that takes other steps": (
        {"training": {"corpus": "people", "epochs": 2}, "generations": 6},
        "collapse.arms.a: its control control differs in generations, training; only their data may differ",
    ),
    "checkpoints that nobody would see": (
        {"training": {"corpus": "people", "checkpoints": 3}},
        "collapse.arms.a.training.checkpoints is 3: input should be 1",
    ),
    "a perplexity model that is not there": (
        {"perplexity_model": "n", "control": None},
        "collapse.arms.a.perplexity_model is `n`, which is not in models; there are m",
    ),
    "another perplexity model than the control's": (
        {"perplexity_model": "m"},
        "collapse.arms.a: its control control differs in perplexity_model; only their data may differ",
    ),
    "a task that is not there": (
        {"tasks": ["mmlo"], "control": None},
        "collapse.arms.a.tasks is `mmlo`, which is not in collapse.tasks; there are none",
    ),
}  # fmt: skip
TASKS = {
    "neither": ({}, "collapse.tasks.t needs either a `path` or a `dataset`"),
    "both": ({"path": "x", "dataset": "a/b", "revision": "1"}, "collapse.tasks.t needs either a `path` or a `dataset`"),
    "no commit": (
        {"dataset": "a/b"},
        "collapse.tasks.t.revision is missing: a run needs the commit of a/b to be reproducible",
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_error_of_a_task(case):
    keys, message = TASKS[case]
    with pytest.raises(ConfigError) as error:
        read_config(CONFIG | {"collapse": {"tasks": {"t": {"kind": "mmlu"} | keys}}})
    assert str(error.value) == message


def test_upload_names_an_owner():
    with pytest.raises(ConfigError, match=r"collapse.upload.repo_id is `mine`; must be an owner, a slash and a name"):
        read_config(CONFIG | {"collapse": {"upload": {"repo_id": "mine"}}})


@pytest.mark.parametrize("case", ERRORS)
def test_error(case):
    changes, message = ERRORS[case]
    with pytest.raises(ConfigError) as error:
        read_config(config(**changes))
    assert str(error.value) == message


def test_an_arm_that_is_run_must_be_there():
    with pytest.raises(
        ConfigError, match=r"collapse\.run is `b`, which is not in collapse\.arms; there are a, control"
    ):
        read_config(config(run=["b"]))


def test_arms_share_generation_0_where_they_begin_alike():
    assert generation_zero_arm(read_config(config()).collapse, "control") == "a"
    assert generation_zero_arm(read_config(config(run=["control", "a"])).collapse, "a") == "control"
    other = read_config(config(sampler={"temperature": 0.5}, control=None))
    assert generation_zero_arm(other.collapse, "control") == "control"


def test_later_generations_do_not_change_earlier_ones():
    short, long = (
        read_config(config(control=None)).collapse.arms["a"],
        read_config(config(generations=9, control=None)).collapse.arms["a"],
    )

    assert generation_settings(short, 3) == generation_settings(long, 3)
    assert generation_settings(short, 0) == generation_settings(
        read_config(config(mode="accumulate")).collapse.arms["a"], 0
    )
    assert generation_settings(short, 3) != generation_settings(
        read_config(config(mode="accumulate")).collapse.arms["a"], 3
    )
