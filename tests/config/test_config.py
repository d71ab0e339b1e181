"""Error messages that name the key and the remedy, and scenarios without errors."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from factlife.config import Config, ConfigError, parse, read_config
from factlife.config.training import Source

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "config").rglob("*.yaml"))
CONFIG = {
    "run": {"models": ["m"]},
    "worlds": {"people": {"kind": "people"}, "countries": {"kind": "countries"}},
    "corpora": {"people": {"kind": "people", "world": "people"}, "prose": {"kind": "prose"}},
    "tokenizers": {"t": {"kind": "bpe", "corpus": "people"}},
    "models": {
        "m": {
            "world": "people",
            "tokenizer": "t",
            "source": {"kind": "scratch", "architecture": "LlamaForCausalLM"},
            "training": {"corpus": "people"},
        },
    },
}
HUB = {"kind": "hub", "repo_id": "a/b", "revision": "c"}


def changed(**changes):
    """The config with changes: ``a__b=value``; ``None`` deletes."""
    config = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *above, last = path.split("__")
        section = config
        for key in above:
            section = section.setdefault(key, {})
        section[last] = value
        if value is None:
            del section[last]
    return config


def test_config_of_this_test_is_valid_and_has_its_defaults():
    settings = read_config(CONFIG)
    assert settings.models["m"].training.optimizer == "muon"
    assert read_config(settings.model_dump(mode="json")) == settings
    assert isinstance(read_config(CONFIG, {"defaults": {"tracing": {}}}), Config)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: str(path.relative_to(ROOT / "config")))
def test_scenarios_are_valid(path):
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    settings = read_config(default, yaml.safe_load(path.read_text()))
    assert set(settings.run.models) <= settings.models.keys()
    assert read_config(settings.model_dump(mode="json")) == settings


EXPERIMENT = {"comparison": "learning", "control": "a", "arms": {"a": ["m"], "b": ["m"]}}


def experiment(**changes):
    return {"run__experiments": ["x"], "experiments": {"x": EXPERIMENT | changes}}


def continuing(model, **changes):
    return {
        "world": "people",
        "source": {"kind": "trained", "model": model},
        "training": {"corpus": "people"},
    } | changes


MINE = {"models__m__training__corpus": "mine"}
ERRORS = {
    "unknown experiment": (
        experiment() | {"run__experiments": ["y"]},
        "run.experiments is `y`, which is not in experiments; there are x",
    ),
    "unknown model in an arm": (
        experiment(arms={"a": ["m"], "b": ["n"]}),
        "experiments.x.arms.b is `n`, which is not in models; there are m",
    ),
    "an empty arm": (
        experiment(arms={"a": ["m"], "b": []}),
        "experiments.x.arms.b is empty; name its models",
    ),
    "unknown control": (
        experiment(control="c"),
        "experiments.x.control is `c`, which is not in experiments.x.arms; there are a, b",
    ),
    "only the control": (
        experiment(arms={"a": ["m"]}),
        "experiments.x.arms has only the control; add an arm to compare with it",
    ),
    "an interval over one seed": (
        experiment(interval_over="seeds"),
        "experiments.x.interval_over is seeds, but there is one seed; give at least two, or set it to facts",
    ),
    "factor with an unknown arm": (
        experiment(factors={"f": ["c"]}),
        "experiments.x.factors.f is `c`, which is not in experiments.x.arms; there are a, b",
    ),
    "factors that are not crossed": (
        experiment(arms={arm: ["m"] for arm in "abc"}, factors={"f": ["a"]}),
        "experiments.x.factors needs one arm with f low, but has b and c",
    ),
    "duplicate seed": (experiment(seeds=[1, 1]), "experiments.x.seeds has duplicates"),
    "a model twice in an arm": (
        experiment(arms={"a": ["m"], "b": ["m", "m"]}),
        "experiments.x.arms.b has duplicates",
    ),
    "an experiment twice": (
        experiment() | {"run__experiments": ["x", "x"]},
        "run.experiments has duplicates",
    ),
    "unknown corpus": (
        {"models__m__training__corpus": "poeple"},
        "models.m.training.corpus is `poeple`, which is not in corpora; did you mean `people`?",
    ),
    "replay above one": (
        {"corpora__people__replay_fraction": 1.2},
        "corpora.people.replay_fraction is 1.2: input should be less than 1",
    ),
    "replay below zero": (
        {"corpora__people__replay_fraction": -0.2},
        "corpora.people.replay_fraction is -0.2: input should be greater than or equal to 0",
    ),
    "replay of everybody": (
        {"corpora__people__replay_fraction": 0.2},
        "corpora.people.replay_fraction is 0.2, but only a corpus about new people can replay facts of old people; set about: new",
    ),
    "nobody late": (
        {"corpora__people__about": "new"},
        "corpora.people.about is new, but world people has no new people; raise worlds.people.new_fraction",
    ),
    "a batch that processes cannot share": (
        {"models__m__processes": 3},
        "models.m.training.batch_size is 32, which 3 processes cannot split; use a multiple of 3",
    ),
    "processes and GPUs": (
        {"models__m__processes": 2, "models__m__gpu": 2},
        "models.m.processes is 2, but each GPU has its own process; delete the key",
    ),
    "unknown tracker": (
        {"run__report_to": ["mlflow"]},
        "run.report_to.0 is 'mlflow': input should be 'tensorboard', 'trackio' or 'wandb'",
    ),
    "continuing from an unknown model": (
        {"run__models": ["m", "n"], "models__n": continuing("k")},
        "models.n.source.model is `k`, which is not in models; there are m, n",
    ),
    "continuing without training": (
        {"run__models": ["m", "n"], "models__n": continuing("m", training=None)},
        "models.n.training is missing: without it, this model would equal m",
    ),
    "continuing in a circle": (
        {"run__models": ["m", "n"], "models__n": continuing("n")},
        "models.n.source.model: the models continue from each other in a circle; start from another model",
    ),
    "unknown key, with the nearest": (
        {"worlds__people__poeple": 3},
        "worlds.people.poeple is not a key of the config; did you mean `people`?",
    ),
    "unknown key at the top": ({"wrolds": {}}, "wrolds is not a key of the config; did you mean `worlds`?"),
    "unknown key without a close match": (
        {"run__zzzzzz": 1},
        "run.zzzzzz is not a key of the config; there are models, experiments, resamples, threads, report_to",
    ),
    "unknown key of an optional section": (
        {"worlds__people__names": {"style": "ordinary", "midle": True}},
        "worlds.people.names.midle is not a key of the config; did you mean `middle`?",
    ),
    "no style": (
        {"worlds__people__names": {"middle": True}},
        "worlds.people.names.style is missing: must be one of pieces, ordinary",
    ),
    "source without kind": (
        {"models__m__source": {}},
        "models.m.source.kind is missing: must be one of scratch, hub, folder, gguf, trained",
    ),
    "unknown key deep inside": (
        {"models__m__training__lerning_rate": 1},
        "models.m.training.lerning_rate is not a key of the config; did you mean `learning_rate`?",
    ),
    "key of another kind": (
        {"worlds__countries__people": 1},
        "worlds.countries.people is not a key of the config; there are kind, relations, panel, neighbours, candidates, seed",
    ),
    "fraction above one": (
        {"corpora__people__window_fraction": 1.4},
        "corpora.people.window_fraction is 1.4: input should be less than or equal to 1",
    ),
    "fraction below zero": (
        {"worlds__people__qa_fraction": -0.1},
        "worlds.people.qa_fraction is -0.1: input should be greater than or equal to 0",
    ),
    "zero people": (
        {"worlds__people__people": 0},
        "worlds.people.people is 0: input should be greater than or equal to 1",
    ),
    "text for a number": (
        {"models__m__training__epochs": "many"},
        "models.m.training.epochs is 'many': input should be a valid integer, unable to parse string as an integer",
    ),
    "unknown value": (
        {"models__m__training__optimizer": "sgd"},
        "models.m.training.optimizer is 'sgd': input should be 'muon' or 'adamw'",
    ),
    "missing kind": (
        {"worlds__people": {"people": 3}},
        "worlds.people.kind is missing: must be one of people, functions, table, countries, benchmark",
    ),
    "unknown kind": (
        {"worlds__people__kind": "poeple"},
        "worlds.people.kind is 'poeple': must be one of people, functions, table, countries, benchmark",
    ),
    "no model": ({"run__models": []}, "run.models is []: list should have at least 1 item after validation, not 0"),
    "a hub model without revision": (
        {"models__m__source": {"kind": "hub", "repo_id": "a/b"}},
        "models.m.source.revision is missing: Commit or tag, so that the run can be repeated.",
    ),
    "a corpus without world": (
        {"corpora__people": {"kind": "people"}},
        "corpora.people.world is missing: A world of kind `people`.",
    ),
    "invalid name": (
        {"worlds__My World": {"kind": "countries"}},
        "worlds.My World is 'My World': names consist of lower-case letters, digits and hyphens, and start with a letter or digit",
    ),
    "list instead of a section": (
        {"models": []},
        "models is []: input should be a valid dictionary",
    ),
    "unknown model in the run": (
        {"run__models": ["people-peices", "m"], "models__people-pieces": CONFIG["models"]["m"]},
        "run.models is `people-peices`, which is not in models; did you mean `people-pieces`?",
    ),
    "unknown world": (
        {"models__m__world": "xyz"},
        "models.m.world is `xyz`, which is not in worlds; there are people, countries",
    ),
    "a corpus of another kind than its world": (
        {"corpora__people__world": "countries"},
        "corpora.people.world is `countries`, a world of kind countries; must be of kind people",
    ),
    "corpus of an unknown world": (
        {"corpora__people__world": "poeple"},
        "corpora.people.world is `poeple`, which is not in worlds; did you mean `people`?",
    ),
    "tokenizer of an unknown corpus": (
        {"tokenizers__t__corpus": "peopel"},
        "tokenizers.t.corpus is `peopel`, which is not in corpora; did you mean `people`?",
    ),
    "training on an unknown corpus": (
        {"models__m__training__corpus": "x"},
        "models.m.training.corpus is `x`, which is not in corpora; there are people, prose",
    ),
    "unknown tokenizer": (
        {"models__m__tokenizer": "x"},
        "models.m.tokenizer is `x`, which is not in tokenizers; there are t",
    ),
    "scratch without tokenizer": (
        {"models__m__tokenizer": None},
        "models.m.tokenizer is missing: a model from scratch needs one of t",
    ),
    "scratch without training": (
        {"models__m__training": None},
        "models.m.training is missing: a model from scratch must be trained",
    ),
    "pretrained with tokenizer": (
        {"models__m__source": HUB},
        "models.m.tokenizer: a pretrained model brings its own tokenizer; delete the key",
    ),
    "duplicate seeds": ({"models__m__seeds": [1, 1]}, "models.m.seeds has duplicates"),
    "no model twice": ({"run__models": ["m", "m"]}, "run.models has duplicates"),
    "a stage twice": (
        {"models__m__stages": ["recall", "tracing", "tracing"], "models__m__tracing": {}},
        "models.m.stages has duplicates",
    ),
    "an unknown stage": (
        {"models__m__stages": ["tracings"]},
        "models.m.stages.0 is 'tracings': input should be 'recall', 'tracing', 'circuits', 'saes', 'graphs', 'editing', "
        "'influence' or 'collapse'",
    ),
    "stages without a world": (
        {"models__m__world": None, "models__m__stages": ["recall", "tracing"]},
        "models.m.world is missing: the stages recall, tracing need facts; name one of `worlds`",
    ),
    "a file of requests with recall but without a world": (
        {
            "models__m__world": None,
            "models__m__stages": ["recall", "editing"],
            "models__m__editing": {"requests": {"kind": "counterfact", "path": "facts.json"}},
        },
        "models.m.world is missing: the stages recall need facts; name one of `worlds`",
    ),
    "a relation twice": ({"worlds__people__relations": ["major", "major"]}, "worlds.people.relations has duplicates"),
    "a control twice": (
        {"ledger__questions__q": {"predictor": "exposures", "outcome": "final_loss", "controls": ["relation"] * 2}},
        "ledger.questions.q.controls has duplicates",
    ),
    "text without source": (
        MINE | {"corpora__mine": {"kind": "text"}},
        "corpora.mine: give either `path` or `dataset`",
    ),
    "text with two sources": (
        MINE | {"corpora__mine": {"kind": "text", "path": "a.txt", "dataset": "a/b", "revision": "c"}},
        "corpora.mine: give either `path` or `dataset`",
    ),
    "dataset without revision": (
        MINE | {"corpora__mine": {"kind": "text", "dataset": "a/b"}},
        "corpora.mine.revision is missing: without the dataset's commit a run could not be repeated",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(case):
    changes, message = ERRORS[case]
    with pytest.raises(ConfigError) as error:
        read_config(changed(**changes))
    assert str(error.value) == message


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        read_config(changed(worlds__people__qa_fraction=2, corpora__people__statemnts_per_fact=3))
    assert str(error.value).splitlines() == [
        "worlds.people.qa_fraction is 2: input should be less than or equal to 1",
        "corpora.people.statemnts_per_fact is not a key of the config; did you mean `statements_per_fact`?",
    ]


def test_parse_takes_a_part_of_a_checked_config():
    config = read_config(changed(models__m__source=HUB, models__m__tokenizer=None)).model_dump(mode="json")
    assert parse(Source, config["models"]["m"]["source"]).repo_id == "a/b"
    with pytest.raises(ValidationError):
        parse(Source, {"kind": "hub"})


def test_reading_a_config_imports_no_torch():
    code = "import sys, factlife.config; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow/scripts").returncode == 0
