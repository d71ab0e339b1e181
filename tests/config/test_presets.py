"""A preset in the user's config gives the published hyper-parameters, whatever the default scenario says.

The values are those of the hyper-parameter files in the repositories of the methods, under the names that they have there
(`lr` of FT, LoRA and UltraEdit is `learning_rate` here, `prob_cutoff` of ENCORE is `argmax_patience` with the opposite sign).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import read_config
from factlife.config.editing_presets import PRESETS

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())

# Hyper-parameters of target vectors, which stand in `values`; all others are keys of the editor.
VALUES = ("v_num_grad_steps", "v_lr", "v_weight_decay", "clamp_norm_factor", "kl_factor", "argmax_patience")


def published(layers, steps, v_lr, decay, clamp, **others):
    return {
        "layers": layers,
        "fact_token": "subject_last",
        "v_num_grad_steps": steps,
        "v_lr": v_lr,
        "v_weight_decay": decay,
        "clamp_norm_factor": clamp,
        "kl_factor": 0.0625,
    } | others


def ft(norm_constraint):
    return {
        "layer": 0,
        "num_steps": 25,
        "learning_rate": 5e-4,
        "norm_constraint": norm_constraint,
        "units": "published",
    }


def ultraedit(*modules):
    return {"modules": [*modules], "learning_rate": 1e-6, "units": "published"}


def blocks(name, first, last):
    return [name.format(layer) for layer in range(first, last + 1)]


XL, J, LLAMA = [13, 14, 15, 16, 17], [3, 4, 5, 6, 7, 8], [4, 5, 6, 7, 8]
UP, GATE, DOWN = (f"model.layers.{{}}.mlp.{part}_proj" for part in ("up", "gate", "down"))

PUBLISHED = {
    # kmeng01/rome, hparams/ROME
    ("rome", "gpt2-medium"): published([8], 20, 0.5, 0.5, 3, mom2_adjustment=True),
    ("rome", "gpt2-large"): published([12], 20, 0.5, 0.5, 4, mom2_adjustment=True),
    ("rome", "gpt2-xl"): published([17], 20, 0.5, 0.5, 4, mom2_adjustment=True),
    ("rome", "gpt-j"): published([5], 20, 0.5, 0.5, 4, mom2_adjustment=True),
    # kmeng01/memit, hparams/ROME
    ("rome", "gpt-neox-20b"): published([15], 20, 0.5, 0.5, 4, mom2_adjustment=True),
    # jianghoucheng/AlphaEdit and zjunlp/EasyEdit, hparams/ROME
    ("rome", "llama-3-8b"): published([5], 25, 0.5, 1e-3, 4, mom2_adjustment=False),
    # kmeng01/memit, hparams/MEMIT
    ("memit", "gpt2-xl"): published(XL, 20, 0.5, 0.5, 0.75, mom2_update_weight=20000),
    ("memit", "gpt-j"): published(J, 25, 0.5, 0.5, 0.75, mom2_update_weight=15000),
    # jianghoucheng/AlphaEdit, hparams/MEMIT
    ("memit", "llama-3-8b"): published(LLAMA, 25, 0.1, 0.5, 0.75, mom2_update_weight=15000),
    # zjunlp/EasyEdit, hparams/MEMIT
    ("memit", "llama-2-7b"): published(LLAMA, 25, 0.5, 1e-3, 4, mom2_update_weight=15000),
    ("memit", "llama-3.2-3b"): published(LLAMA, 25, 0.5, 1e-3, 4, mom2_update_weight=15000),
    ("memit", "qwen-2.5-7b"): published(LLAMA, 25, 0.5, 1e-3, 4, mom2_update_weight=15000),
    # scalable-model-editing/encore, hparams/ENCORE
    ("memit", "encore-gpt2-xl"): published(
        XL, 20, 0.5, 0.5, 0.75, mom2_update_weight=20000, update_norm_lambda=10, argmax_patience=4,
        preserve_previous_edits=True,
    ),
    ("memit", "encore-llama-2-7b"): published(
        LLAMA, 25, 0.5, 0.5, 0.75, mom2_update_weight=15000, update_norm_lambda=10, argmax_patience=3,
        preserve_previous_edits=True,
    ),
    ("memit", "encore-llama-3-8b"): published(
        LLAMA, 25, 0.5, 0.5, 0.75, mom2_update_weight=15000, update_norm_lambda=20, argmax_patience=2,
        preserve_previous_edits=True,
    ),
    # jianghoucheng/AlphaEdit, hparams/AlphaEdit
    ("alphaedit", "gpt2-xl"): published(XL, 20, 0.5, 0.5, 0.75, nullspace_threshold=2e-2, L2=10),
    ("alphaedit", "gpt-j"): published(J, 25, 0.5, 0.5, 0.75, nullspace_threshold=2e-2, L2=10),
    ("alphaedit", "llama-3-8b"): published(LLAMA, 25, 0.1, 0.5, 0.75, nullspace_threshold=2e-2, L2=10),
    # scalable-model-editing/unified-model-editing, hparams/EMMET
    ("emmet", "gpt2-xl"): published([17], 20, 0.5, 0.5, 0.75, emmet_lambda=0.1),
    ("emmet", "gpt-j"): published([5], 25, 0.5, 0.5, 0.75, emmet_lambda=0.1),
    # kmeng01/rome, hparams/FT, with a norm constraint
    ("ft", "gpt2-medium"): ft(2e-3),
    ("ft", "gpt2-large"): ft(1e-3),
    ("ft", "gpt2-xl"): ft(5e-4),
    ("ft", "gpt-j"): ft(5e-5),
    # ICT-STAR/LocFT, hparams
    ("locft", "llama-3-8b"): {"layer": 22, "learning_rate": 5e-4, "batch_size": 100, "epochs": 25, "append_eos": True},
    # XiaojieGu/UltraEdit, run.sh and config/editor, for zsRE
    ("ultraedit", "gpt-j"): ultraedit(*blocks("transformer.h.{}.mlp.fc_out", 18, 26)),
    ("ultraedit", "llama-3-8b"): ultraedit(*blocks(GATE, 11, 15), *blocks(UP, 18, 24)),
    ("ultraedit", "mistral-7b"): ultraedit(*blocks(DOWN, 29, 30)),
    ("ultraedit", "qwen-2.5-7b"): ultraedit(*blocks(UP, 18, 26), *blocks(GATE, 18, 26)),
    # zjunlp/EasyEdit, hparams/LoRA/llama-7b.yaml
    ("lora", "easyedit"): {"r": 8, "lora_alpha": 32, "learning_rate": 5e-3, "epochs": 70},
}  # fmt: skip


def test_every_preset_is_compared_with_its_source():
    assert PUBLISHED.keys() == {(kind, preset) for kind, presets in PRESETS.items() for preset in presets}


# Names of a user's entry: new, the name of a kind, and names of entries of the default scenario, whose settings differ.
@pytest.mark.parametrize("name", ["mine", "memit", "people-memit", "people-alphaedit"])
@pytest.mark.parametrize(("kind", "preset"), PUBLISHED)
def test_a_preset_gives_the_published_values_on_top_of_the_default_scenario(kind, preset, name):
    user = {"editors": {name: {"kind": kind, "preset": preset}}}
    editor = read_config(DEFAULT, user | _using(name)).editors[name]

    found = editor.model_dump()
    for key, value in PUBLISHED[kind, preset].items():
        assert (found["values"] if key in VALUES else found)[key] == value, key
    if "values" in found:
        assert found["values"]["units"] == "published"


@pytest.mark.parametrize(("kind", "preset"), PUBLISHED)
def test_keys_beside_a_preset_win_and_all_others_stay_published(kind, preset):
    entry = {"kind": kind, "preset": preset, "schedule": {"n_edits": 7}}
    plain, changed = (
        read_config(DEFAULT, {"editors": {"mine": settings}} | _using("mine")).editors["mine"].model_dump()
        for settings in ({"kind": kind, "preset": preset}, entry)
    )
    assert changed["schedule"].pop("n_edits") == 7 and plain["schedule"].pop("n_edits") != 7
    assert changed == plain


def test_only_an_entry_without_kind_keeps_settings_of_the_default_scenario():
    user = {"editors": {"people-memit": {"preset": "gpt2-xl"}}}
    editor = read_config(DEFAULT, user).editors["people-memit"]
    default = DEFAULT["editors"]["people-memit"]
    assert editor.fact_token == default["fact_token"] and editor.layers == default["layers"]
    assert editor.mom2_update_weight == 20000


def _using(editor):
    """A run that edits a model with one editor."""
    model = {
        "source": {"kind": "folder", "path": "/models/gpt2"},
        "world": "countries",
        "stages": ["editing"],
        "editing": {"editors": [editor], "requests": {"kind": "counterfact", "path": "facts.json", "count": 20000}},
    }
    return {"run": {"models": ["mine"]}, "models": {"mine": model}}
