import copy
from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["circuits"]["models"].append("nobody"), "circuits.models is `nobody`, which is not in models"),
        (lambda c: c["circuits"].update(relations=["major", "major"]), "circuits.relations has duplicates"),
        (lambda c: c["circuits"].update(ig_steps=4), "circuits.ig_steps is 4"),
        (
            lambda c: c["circuits"].update(known_circuits={"hobby": "published/hobby.json"}),
            "circuits.known_circuits names relation `hobby`, which is not in circuits.relations",
        ),
        (
            lambda c: c["hypotheses"]["first-mlp"].update(relation="hobby"),
            "hypotheses.first-mlp.relation is `hobby`, which is not in circuits.relations",
        ),
        (
            lambda c: c["hypotheses"]["first-mlp"].update(component="nothing/layer-1/17"),
            "hypotheses.first-mlp.component names a feature of `nothing`, which `dictionaries` does not train for people-pieces",
        ),
    ],
)
def test_errors_name_the_key_and_the_remedy(change, text):
    config = copy.deepcopy(DEFAULT)
    change(config)
    with pytest.raises(ConfigError) as error:
        read_config(config)
    assert text in str(error.value)
