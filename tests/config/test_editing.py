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
        (lambda e: e["editors"]["rome"].update(layers=[1, 2]), ["rome.layers has 2 layers; ROME edits one"]),
        (lambda e: e["models"]["people-pieces"].update(editors=["memmit"]), ["`memmit`", "did you mean `memit`?"]),
        (
            lambda e: e["covariances"]["people"].update(layers=[1, 2]),
            ["editing.covariances.people.layers lacks [3], which editor `memit` edits in `people-pieces`; add them"],
        ),
        (
            lambda e: (e["covariances"]["people"].update(layers=[1, 2, 3]), e["editors"]["rome"].update(choose_by="depth")),
            ["editing.covariances.people.layers names some blocks, but editor `rome` may edit others", "empty it"],
        ),
        (
            lambda e: e["editors"]["memit"]["values"].update(v_lr=0.5),
            ["editing.editors.memit.values", "`v_lr` needs `units`: `published` for a value from a ROME or MEMIT file"],
        ),
        (
            lambda e: e["editors"]["memit"].update(share=0.5),
            ["editing.editors.memit.share is now called `residual_fraction`; rename the key"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    config = copy.deepcopy(DEFAULT)
    config["editing"]["hypernetworks"] = {"batches": {"edits_per_batch": 100}}
    change(config["editing"])
    with pytest.raises(ConfigError) as error:
        read_config(config)
    for text in texts:
        assert text in str(error.value)


def test_blocks_counted_from_the_end_are_not_compared_with_those_from_the_beginning():
    raw = copy.deepcopy(DEFAULT)
    raw["editing"]["covariances"]["people"]["layers"] = [-3, -2, -1]
    raw["editing"]["models"]["people-pieces"]["site_sweep"]["editor"] = None
    assert read_config(raw).editing.covariances["people"].layers == [-3, -2, -1]
