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
        (
            lambda g: g["models"].update({"people-pieces": "batchtopk-residual"}),
            ["graphs.models.people-pieces is `batchtopk-residual`, whose site is `residual`", "name one whose site is `transcoder`"],
        ),
        (
            lambda g: g["models"].update({"functions": "batchtopk-transcoder"}),
            ["not trained on `functions`", "add it to dictionaries.batchtopk-transcoder.models"],
        ),
        (lambda g: g["models"].update({"people-pieces": "batchtopk-transcoders"}), ["did you mean `batchtopk-transcoder`?"]),
        (lambda g: g["models"].update({"nobody": "batchtopk-transcoder"}), ["`nobody`, which is not in models"]),
        (lambda g: g.update(pages=["p001.major", "p001.major"]), ["graphs.pages has duplicates"]),
        (lambda g: g.update(node_threshold=0), ["graphs.node_threshold is 0"]),
        (lambda g: g.update(prompts={"mine": {"prompt": "Paris is in"}}), ["graphs.prompts.mine.answer is missing"]),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    config = copy.deepcopy(DEFAULT)
    change(config["graphs"])
    with pytest.raises(ConfigError) as error:
        read_config(config)
    for text in texts:
        assert text in str(error.value)
