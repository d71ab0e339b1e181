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
            lambda e: e["editors"].update(mend={"kind": "mend", "hypernetwork": "batchs"}),
            ["editing.editors.mend.hypernetwork is `batchs`, which is not in editing.hypernetworks", "`batches`"],
        ),
        (lambda e: e["editors"].update(mend={"kind": "mend"}), ["editing.editors.mend.hypernetwork", "missing"]),
        (lambda e: e["editors"]["rome"]["place"].update(layers=[1, 2]), ["rome.place.layers has 2 layers; ROME edits one"]),
        (lambda e: e["models"]["people-pieces"].update(editors=["memmit"]), ["`memmit`", "did you mean `memit`?"]),
        (
            lambda e: e["moments"]["people"].update(layers=[1, 2]),
            ["editing.moments.people.layers lacks [3], which editor `memit` changes in `people-pieces`; add them"],
        ),
        (
            lambda e: (e["moments"]["people"].update(layers=[1, 2, 3]), e["editors"]["rome"]["place"].update(by="depth")),
            ["editing.moments.people.layers names some blocks, but editor `rome` may change others", "empty it"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    config = copy.deepcopy(DEFAULT)
    config["editing"]["hypernetworks"] = {"batches": {"batch": 100}}
    change(config["editing"])
    with pytest.raises(ConfigError) as error:
        read_config(config)
    for text in texts:
        assert text in str(error.value)


def test_blocks_counted_from_the_end_are_not_compared_with_those_from_the_beginning():
    raw = copy.deepcopy(DEFAULT)
    raw["editing"]["moments"]["people"]["layers"] = [-3, -2, -1]
    raw["editing"]["models"]["people-pieces"]["places"]["editor"] = None
    assert read_config(raw).editing.moments["people"].layers == [-3, -2, -1]
