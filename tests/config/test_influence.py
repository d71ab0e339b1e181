import copy
from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda i: i["models"].update(nobody={}), ["influence.models.nobody", "there is no model"]),
        (lambda i: i["models"]["functions"].update(rankers=["bm52"]), ["`bm52`", "there are random, bm25"]),
        (lambda i: i["models"]["functions"].update(corpus="people"), ["of world `people`", "the model's world is `functions`"]),
        (lambda i: i["models"]["functions"].update(corpus="nothing"), ["`nothing`, which is not in corpora"]),
        (
            lambda i: i["models"]["functions"].update(rankers=["far"]) or i["rankers"].update(far={"kind": "gradient", "checkpoints": [6]}),
            ["influence.rankers.far.checkpoints has 6", "models.functions has 6"],
        ),
        (lambda i: i["rankers"]["bm25"].update(b=2), ["influence.rankers.bm25.b is 2"]),
        (lambda i: i["rankers"]["ekfac"].update(damping=0.1), ["ekfac.damping is now called `damping_factor`"]),
        (lambda i: i["models"]["functions"].update(retraining={}), ["functions.retraining is now called `retrained_models`"]),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    config = copy.deepcopy(DEFAULT)
    change(config["influence"])
    with pytest.raises(ConfigError) as error:
        read_config(config)
    for text in texts:
        assert text in str(error.value)
