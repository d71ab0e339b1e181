"""Errors of the arms that name the key and the remedy, and which generations share a folder."""

from __future__ import annotations

import pytest

from factlife.config import ConfigError, read_config
from factlife.config.collapse import generation_settings, generation_zero_arm, model_arms
from factlife.config.reachability import reachable_models

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
            "stages": ["recall", "collapse"],
        }
    },
}


def config(run=("a", "control"), **keys):
    """The config with arm `a`, which differs from its control in ``keys``."""
    arms = {"a": {"control": "control"} | keys, "control": {"synthetic_fraction": 0}}
    model = CONFIG["models"]["m"] | {"collapse": {"arms": list(run)}}
    return CONFIG | {"models": {"m": model}, "collapse": {"arms": arms}}


def arms_of(**keys):
    return model_arms(read_config(config(**keys)), "m")


ERRORS = {
    "a share above one": ({"synthetic_fraction": 1.2}, "collapse.arms.a.synthetic_fraction is 1.2: input should be less than or equal to 1"),
    "no share": ({"synthetic_fraction": -0.1}, "collapse.arms.a.synthetic_fraction is -0.1: input should be greater than or equal to 0"),
    "an arm that names a model": ({"model": "x", "control": None}, "collapse.arms.a.model has moved to models.*.collapse.arms"),
    "a corpus that is not there": (
        {"training": {"corpus": "x"}, "control": None},
        "collapse.arms.a.training.corpus is `x`, which is not in corpora; there are people, functions, prose",
    ),
    "a corpus without held-out text": (
        {"training": {"corpus": "functions"}, "control": None},
        "collapse.arms.a.training.corpus: functions holds out no documents for evaluation; "
        "use a corpus of kind people, or prose or text with a `held_out_fraction`",
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
    "a control that the model does not run": (
        {"run": ["a"]},
        "collapse.arms.a.control is `control`, which is not in models.m.collapse.arms; add it there",
    ),
    "checkpoints that nobody would see": (
        {"training": {"corpus": "people", "checkpoints": 3}},
        "collapse.arms.a.training.checkpoints is 3: input should be 1",
    ),
    "another perplexity model than the control's": (
        {"perplexity_model": "m"},
        "collapse.arms.a.perplexity_model has moved to models.*.collapse.perplexity_model",
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


def with_tasks(tasks, *, listed):
    """The config with tasks, which the arm of `m` lists or not."""
    model = CONFIG["models"]["m"] | {"collapse": {"arms": ["a"]}}
    arm = {"tasks": list(tasks) if listed else []}
    return CONFIG | {"models": {"m": model}, "collapse": {"arms": {"a": arm}, "tasks": tasks}}


@pytest.mark.parametrize("case", TASKS)
def test_error_of_a_task(case):
    keys, message = TASKS[case]
    tasks = {"t": {"kind": "mmlu"} | keys}
    with pytest.raises(ConfigError) as error:
        read_config(with_tasks(tasks, listed=True))
    assert str(error.value) == message
    assert read_config(with_tasks(tasks, listed=False)).collapse.tasks


def test_upload_names_an_owner():
    with pytest.raises(ConfigError, match=r"collapse.upload.repo_id is `mine`; must be an owner, a slash and a name"):
        read_config(CONFIG | {"collapse": {"upload": {"repo_id": "mine"}}})


@pytest.mark.parametrize("case", ERRORS)
def test_error(case):
    changes, message = ERRORS[case]
    with pytest.raises(ConfigError) as error:
        read_config(config(**changes))
    assert str(error.value) == message


def test_the_perplexity_model_must_be_there():
    changed = config()
    changed["models"]["m"]["collapse"]["perplexity_model"] = "n"
    with pytest.raises(ConfigError) as error:
        read_config(changed)
    assert str(error.value) == "models.m.collapse.perplexity_model is `n`, which is not in models; there are m"


def test_a_perplexity_model_is_reached():
    changed = config()
    changed["models"]["m"]["collapse"]["perplexity_model"] = "judge"
    changed["models"]["judge"] = CONFIG["models"]["m"] | {"stages": ["recall"]}
    assert reachable_models(read_config(changed)) == ["m", "judge"]


def test_an_arm_that_is_run_must_be_there():
    with pytest.raises(
        ConfigError, match=r"models\.m\.collapse\.arms is `b`, which is not in collapse\.arms; there are a, control"
    ):
        read_config(config(run=["b"]))


def test_an_arm_that_is_not_run_is_not_checked():
    assert read_config(config(run=["control"], recover_after=4)).collapse.arms["a"].recover_after == 4


def test_the_corpus_of_an_arm_is_the_models_own():
    assert arms_of()["a"].training.corpus == "people"
    assert arms_of(training={"corpus": "prose"}, control=None)["a"].training.corpus == "prose"


def test_an_arm_of_a_model_that_is_not_trained_here_names_its_corpus():
    model = {
        "world": "people",
        "source": {"kind": "folder", "path": "/models/gpt2"},
        "stages": ["recall", "collapse"],
        "collapse": {"arms": ["a"]},
    }
    arm = {"training": {"corpus": "prose"}}
    assert read_config(CONFIG | {"models": {"m": model}, "collapse": {"arms": {"a": arm}}})
    with pytest.raises(
        ConfigError, match=r"collapse\.arms\.a\.training\.corpus is missing: this config does not train `m`"
    ):
        read_config(CONFIG | {"models": {"m": model}, "collapse": {"arms": {"a": {}}}})


def test_arms_share_generation_0_where_they_begin_alike():
    assert generation_zero_arm(arms_of(), "control") == "a"
    assert generation_zero_arm(arms_of(run=["control", "a"]), "a") == "control"
    other = arms_of(sampler={"temperature": 0.5}, control=None)
    assert generation_zero_arm(other, "control") == "control"


def test_later_generations_do_not_change_earlier_ones():
    short, long = arms_of(control=None)["a"], arms_of(generations=9, control=None)["a"]

    assert generation_settings(short, 3) == generation_settings(long, 3)
    assert generation_settings(short, 0) == generation_settings(arms_of(mode="accumulate")["a"], 0)
    assert generation_settings(short, 3) != generation_settings(arms_of(mode="accumulate")["a"], 3)
