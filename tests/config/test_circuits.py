"""Errors of circuits and hypotheses that name the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())


def circuits(**settings):
    return {"models": {"people-pieces": {"circuits": settings}}}


def hypothesis(**settings):
    return {"hypotheses": {"first-mlp": settings}}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            circuits(hypotheses=["first-mpl"]),
            "models.people-pieces.circuits.hypotheses is `first-mpl`, which is not in hypotheses; did you mean `first-mlp`?",
        ),
        (circuits(relations=["major", "major"]), "models.people-pieces.circuits.relations has duplicates"),
        (circuits(hypotheses=["one-head", "one-head"]), "models.people-pieces.circuits.hypotheses has duplicates"),
        (circuits(methods=["EAP", "EAP"]), "models.people-pieces.circuits.methods has duplicates"),
        (circuits(ig_steps=4), "models.people-pieces.circuits.ig_steps is 4"),
        (
            circuits(known_circuits={"hobby": "published/hobby.json"}),
            "models.people-pieces.circuits.known_circuits is `hobby`, which is not in models.people-pieces.circuits.relations; "
            "there are birth_city, employer, major",
        ),
        (
            hypothesis(relation="hobby"),
            "hypotheses.first-mlp.relation is `hobby`, which is not in models.people-pieces.circuits.relations",
        ),
        (
            hypothesis(control="hobby"),
            "hypotheses.first-mlp.control is `hobby`, which is not in models.people-pieces.circuits.relations",
        ),
        (
            hypothesis(component="nothing/layer-1/17"),
            "hypotheses.first-mlp.component is `nothing`, which is not in models.people-pieces.saes.dictionaries",
        ),
        (hypothesis(model="people-pieces"), "hypotheses.first-mlp.model has moved to models.*.circuits.hypotheses"),
    ],
)
def test_errors_name_the_key_and_the_remedy(change, text):
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    assert text in str(error.value)


def test_relations_default_to_those_of_the_models_world():
    change = {"models": {"people-ordinary": {"stages": ["recall", "circuits"]}}}
    settings = read_config(DEFAULT, change)
    assert settings.models["people-ordinary"].circuits.relations == settings.worlds["people-ordinary"].relations


def test_relations_of_a_table_come_from_its_file(tmp_path):
    (tmp_path / "facts.csv").write_text("subject,relation,object\nAda,job,smith\nBen,town,Ulm\nBen,job,baker\n")
    change = {
        "worlds": {"people": {"kind": "table", "facts": f"{tmp_path}/facts.csv", "templates": "templates.yaml"}},
        "corpora": {"people": {"kind": "table", "world": "people"}},
        "models": {
            "people-pieces": {
                "stages": ["circuits"],
                "circuits": {"relations": None, "hypotheses": []},
            }
        },
        "run": {"models": ["people-pieces"]},
    }
    assert read_config(DEFAULT, change).models["people-pieces"].circuits.relations == ["job", "town"]


def test_a_hypothesis_that_no_model_tests_is_not_checked():
    change = circuits(hypotheses=["second-attention", "one-head"]) | hypothesis(relation="hobby")
    assert read_config(DEFAULT, change).hypotheses["first-mlp"].relation == "hobby"
