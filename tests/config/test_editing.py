"""Errors of edits that name the key and the remedy, and editors and covariances that need no entry."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
EDITING = "models.people-pieces.editing"
MEND = {"editors": ["mend"]}


def editing(entries=None, **settings):
    """Settings of the edits of people-pieces, and named entries beside them."""
    return {"models": {"people-pieces": {"editing": settings}}} | (entries or {})


def editor(name, **settings):
    return {"editors": {name: settings}}


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (
            editing(editor("mend", kind="mend", hypernetwork="batchs") | {"hypernetworks": {"batches": {}}}, **MEND),
            ["editors.mend.hypernetwork is `batchs`, which is not in hypernetworks", "`batches`"],
        ),
        (editing(editor("mend", kind="mend"), **MEND), ["editors.mend.hypernetwork is missing"]),
        (editing(**MEND), ["editors.mend.hypernetwork is missing"]),
        (editor("people-rome", layers=[1, 2]), ["editors.people-rome.layers has 2 layers; ROME edits one"]),
        (editing(editors=["people-memmit"]), [f"{EDITING}.editors is `people-memmit`", "did you mean `people-memit`?"]),
        (editing(editors=["memit", "memit"]), [f"{EDITING}.editors has duplicates"]),
        (editing(survival={"editors": ["people-memit"] * 2}), [f"{EDITING}.survival.editors has duplicates"]),
        (editing(survival={"finetuning": ["lora", "lora"]}), [f"{EDITING}.survival.finetuning has duplicates"]),
        (editing(survival={"editors": ["memit"]}), [f"{EDITING}.survival.editors is `memit`, which is not in {EDITING}.editors"]),
        (editing(survival={"editors": ["people-rome"]}), ["`people-rome` rolls back each edit, so that no edit can survive"]),
        (editing(evaluation={"tasks": ["world", "world"]}), [f"{EDITING}.evaluation.tasks has duplicates"]),
        (
            editing(covariance="peopel"),
            [f"{EDITING}.covariance is `peopel`, which is not in covariances; did you mean `people`?"],
        ),
        (editor("people-memit", covariance="peopel"), ["editors.people-memit.covariance is `peopel`"]),
        ({"covariances": {"people": {"corpus": "peopel"}}}, ["covariances.people.corpus is `peopel`, which is not in corpora"]),
        (
            {"covariances": {"people": {"layers": [1, 2]}}},
            ["covariances.people.layers lacks [3], which editor `people-memit` edits in `people-pieces`; add them"],
        ),
        (
            {"covariances": {"people": {"layers": [1, 2, 3]}}} | editor("people-rome", choose_by="depth"),
            ["covariances.people.layers names some blocks, but editor `people-rome` may edit others", "empty it"],
        ),
        (
            editor("people-rome", choose_by="tracing") | {"models": {"people-pieces": {"stages": ["recall", "editing"]}}},
            ["editor `people-rome` has `choose_by: tracing`; add `tracing` to models.people-pieces.stages"],
        ),
        (
            editing(editor("people-rome", choose_by="sweep"), site_sweep={"editor": None}),
            [f"`choose_by: sweep`; name the editor of the sweep in `{EDITING}.site_sweep.editor`"],
        ),
        (editing(requests={"count": 99}), [f"{EDITING}.requests.count is 99, but an editor takes 100; raise it"]),
        (
            editor("people-memit", values={"v_lr": 0.5}),
            ["editors.people-memit.values", "`v_lr` needs `units`: `published` for a value from a ROME or MEMIT file"],
        ),
        (
            editor("people-memit", share=0.5),
            ["editors.people-memit.share is now called `residual_fraction`; rename the key"],
        ),
        (editor("mine", kind="memit", preset="gpt-5"), ["`gpt-5` is no preset of memit; there are gpt2-xl, gpt-j"]),
        (
            {"editing": {"models": {"people-pieces": {}}}},
            ["editing has moved to models.*.editing, editors, covariances and hypernetworks"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    for text in texts:
        assert text in str(error.value)


def test_blocks_counted_from_the_end_are_not_compared_with_those_from_the_beginning():
    change = editing({"covariances": {"people": {"layers": [-3, -2, -1]}}}, site_sweep={"editor": None})
    assert read_config(DEFAULT, change).covariances["people"].layers == [-3, -2, -1]


def test_a_kind_is_an_editor_with_its_defaults():
    settings = read_config(DEFAULT, editing(editors=["memit", "rome"], survival={"editors": ["memit"]}))
    for kind in ("memit", "rome"):
        assert settings.editors[kind].model_dump(exclude_unset=True) == {"kind": kind}
    assert "memit" not in read_config(DEFAULT).editors


def test_an_entry_named_after_a_kind_is_the_users():
    change = editing(editor("memit", kind="memit", layers=[2]), editors=["memit"], survival={"editors": []})
    assert read_config(DEFAULT, change).editors["memit"].layers == [2]


def test_an_editor_that_no_model_uses_is_not_checked():
    change = editor("mine", kind="mend", hypernetwork="nowhere")
    assert read_config(DEFAULT, change).editors["mine"].hypernetwork == "nowhere"


def test_the_covariance_is_measured_on_the_corpus_of_training():
    settings = read_config(DEFAULT, {"models": {"functions": {"stages": ["recall", "editing"]}}})
    assert settings.models["functions"].editing.covariance == "functions"
    assert settings.covariances["functions"].model_dump(exclude_unset=True) == {"corpus": "functions"}


def test_the_covariance_of_a_model_that_is_not_trained_here_is_measured_on_prose():
    change = {
        "run": {"models": ["mine"]},
        "models": {
            "mine": {
                "source": {"kind": "folder", "path": "/models/gpt2"},
                "stages": ["editing"],
                "editing": {"requests": {"kind": "counterfact", "path": "facts.json"}},
            }
        },
    }
    settings = read_config(DEFAULT, change)
    assert settings.models["mine"].editing.editors == ["memit"]
    assert settings.models["mine"].editing.covariance == "prose" and settings.covariances["prose"].corpus == "prose"


@pytest.mark.parametrize(
    ("covariances", "derived"),
    [
        ({"people": {"corpus": "people", "tokens_per_key_dim": 7}}, "people"),
        # The name may belong to the covariance of another corpus.
        ({"people": {"corpus": "prose"}}, "people-corpus"),
        # Another covariance of the corpus serves another purpose.
        ({"strangers": {"corpus": "people", "include_edited_subjects": False}}, "people"),
    ],
)
def test_a_derived_covariance_is_the_one_named_after_the_corpus(covariances, derived):
    settings = read_config(DEFAULT | {"covariances": covariances}, editing(covariance=None))
    assert settings.models["people-pieces"].editing.covariance == derived
    assert settings.covariances[derived].corpus == "people" and settings.covariances[derived].include_edited_subjects
    assert settings.covariances.keys() == {*covariances, derived}


def test_requests_from_a_file_need_no_world():
    change = {
        "run": {"models": ["mine"]},
        "models": {
            "mine": {
                "source": {"kind": "folder", "path": "/models/gpt2"},
                "stages": ["editing"],
                "editing": {
                    "requests": {"kind": "counterfact", "path": "facts.json"},
                    "evaluation": {"tasks": ["world"]},
                    "survival": {"editors": ["memit"]},
                },
            }
        },
    }
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    assert str(error.value).splitlines() == [
        "models.mine.editing.evaluation.tasks: `world` needs the facts of a world; set `world` of the model, or delete the key",
        "models.mine.editing.survival.editors needs the facts of a world; set `world` of the model, or delete the key",
    ]


@pytest.mark.parametrize(
    ("schedule", "kind", "n_edits"),
    [({"n_edits": 7}, "single", 7), ({"kind": "batch"}, "batch", 100), (None, "single", 50)],
)
def test_a_schedule_without_kind_changes_the_default_of_the_editor(schedule, kind, n_edits):
    entry = {"kind": "rome"} | ({"schedule": schedule} if schedule else {})
    change = editing(editor("mine", **entry), editors=["people-memit", "mine"])
    settings = read_config(DEFAULT, change).editors["mine"].schedule
    assert (settings.kind, settings.n_edits) == (kind, n_edits)
