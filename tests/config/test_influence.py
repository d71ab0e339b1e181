"""Errors of influence that name the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())


def functions(**settings):
    return {"models": {"functions": {"influence": settings}}}


def sweep(**point):
    return {"influence": {"sweeps": {"damping": {"title": "damping", "points": [{"value": 1, "curve": "c"} | point]}}}}


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"run": {"models": ["nobody"]}}, ["run.models is `nobody`, which is not in models"]),
        (functions(rankers=["bm52"]), ["models.functions.influence.rankers is `bm52`", "did you mean `bm25`?"]),
        (functions(rankers=["bm25", "bm25"]), ["models.functions.influence.rankers has duplicates"]),
        (functions(probe_kinds=["forward", "forward"]), ["models.functions.influence.probe_kinds has duplicates"]),
        (functions(corpus="people"), ["of world `people`", "the model's world is `functions`"]),
        (functions(corpus="nothing"), ["models.functions.influence.corpus is `nothing`, which is not in corpora"]),
        (
            functions(rankers=["far"]) | {"rankers": {"far": {"kind": "gradient", "checkpoints": [6]}}},
            ["rankers.far.checkpoints has 6", "models.functions has 6"],
        ),
        (
            functions(retrained_models={"top_k_removal": {"rankers": ["tfidf"]}}),
            ["retrained_models.top_k_removal.rankers has `tfidf`, which is not in models.functions.influence.rankers"],
        ),
        ({"rankers": {"bm25": {"b": 2}}}, ["rankers.bm25.b is 2"]),
        ({"rankers": {"ekfac": {"damping": 0.1}}}, ["rankers.ekfac.damping is now called `damping_factor`"]),
        (functions(retraining={}), ["functions.influence.retraining is now called `retrained_models`"]),
        ({"influence": {"models": {}}}, ["influence.models has moved to models.*.influence"]),
        ({"influence": {"rankers": {}}}, ["influence.rankers has moved to rankers"]),
        ({"influence": {"headline_k": 7}}, ["influence.headline_k is 7, which is not in influence.k"]),
        ({"influence": {"k": [10, 10]}}, ["influence.k has duplicates"]),
        (
            sweep(model="functions", ranker="kfac"),
            ["influence.sweeps.damping has ranker `kfac` of model `functions`, which is not in models.functions.influence.rankers"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    for text in texts:
        assert text in str(error.value)


def test_a_sweep_may_name_models_that_are_not_run():
    change = sweep(model="functions", ranker="kfac") | {"run": {"models": ["people-pieces"]}}
    assert read_config(DEFAULT, change).influence.sweeps


def test_a_kind_is_a_ranker_with_its_defaults():
    settings = read_config(DEFAULT, functions(rankers=["kronfluence", "bm25"]))
    assert settings.rankers["kronfluence"].model_dump(exclude_unset=True) == {"kind": "kronfluence"}
