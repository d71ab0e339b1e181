"""Target vectors computed before editors run: the same bits, for any number of jobs and for every editor that shares them."""

from dataclasses import replace

import pytest
import torch

from factlife.config import Config, parse
from factlife.config.editing import (
    AlphaEdit,
    EditRequests,
    EditSchedule,
    EditSite,
    Memit,
    Rome,
    SharedTargetVectors,
    TargetVectorSettings,
    target_vector_source,
)
from factlife.editing import compute_z
from factlife.editing.editable import EditError
from factlife.editing.editors import EDITORS
from factlife.editing.requests import probes_from_world, requests_from_world, scheduled_requests
from factlife.editing.schedules import run_editor

SEARCH = TargetVectorSettings(
    v_num_grad_steps=6, n_context_templates=2, clamp_norm_factor=4.0, units="relative", v_lr=0.5, batch_size=3
)
SITE = EditSite(fact_token="last", layers=[1, 2])
BATCH = {**dict(SITE), "values": SEARCH, "schedule": EditSchedule(n_edits=8)}
EDITED = {
    "memit": Memit(kind="memit", **BATCH),
    "alphaedit": AlphaEdit(kind="alphaedit", nullspace_energy=0.5, **BATCH),
    "memit at subjects": Memit(kind="memit", **BATCH | dict(EditSite(fact_token="subject_last", layers=[1]))),
    "rome": Rome(
        kind="rome", **BATCH | dict(EditSite(layers=[1])) | {"schedule": EditSchedule(kind="single", n_edits=4)}
    ),
}


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=8))


@pytest.fixture
def probes(requests, world):
    return probes_from_world(requests, world)


def with_saved_vectors(folder, target, requests, editor, shards):
    """The model with target values that jobs have found."""
    paths = [folder / f"shard-{shard}.safetensors" for shard in range(shards)]
    for shard, path in enumerate(paths):
        compute_z.save_target_vectors(
            target, requests, editor.site, editor.values, editor.schedule, path,
            model="abc", shard=shard, shards=shards,
        )  # fmt: skip
    return compute_z.load_target_vectors(target, requests, editor, paths, model="abc")


@pytest.mark.parametrize("name", EDITED)
def test_edits_have_the_same_bits_with_precomputed_target_vectors(
    target, requests, probes, name, tmp_path, monkeypatch
):
    editor = EDITED[name]
    few = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    expected = run_editor(target, requests, few, editor).deltas

    known = [with_saved_vectors(tmp_path, target, requests, editor, shards) for shards in (1, 3)]

    monkeypatch.setattr(compute_z, "compute_target_vectors", None)
    for one in known:
        deltas = run_editor(one, requests, few, editor).deltas
        assert deltas.keys() == expected.keys()
        assert all(torch.equal(change, expected[key]) for key, change in deltas.items())


def test_two_editors_share_what_one_of_them_found(target, requests, tmp_path, monkeypatch):
    expected = EDITORS["alphaedit"](target, requests, EDITED["alphaedit"], {})
    known = with_saved_vectors(tmp_path, target, requests, EDITED["memit"], 2)

    monkeypatch.setattr(compute_z, "compute_target_vectors", None)
    deltas = EDITORS["alphaedit"](known, requests, EDITED["alphaedit"], {})

    assert all(torch.equal(change, expected[key]) for key, change in deltas.items())


@pytest.mark.parametrize("shards", [2, 5, 40])
def test_shards_join_to_the_whole(target, requests, shards, tmp_path):
    editor = EDITED["memit"]
    whole = compute_z.compute_target_vectors(target, requests, editor.site, editor.values)

    joined = with_saved_vectors(tmp_path, target, requests, editor, shards).target_vectors

    assert joined.slots == whole.slots and len(whole.delta) > 2 * SEARCH.batch_size
    for one, other in zip(joined._tensors, whole._tensors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("token", ["last", "subject_last"])
def test_requests_found_apart_are_found_as_if_alone(target, requests, token):
    site = EditSite(fact_token=token, layers=[1])
    together = compute_z.compute_target_vectors(target, requests, site, SEARCH, independent=True)

    for number in range(len(requests)):
        alone = compute_z.compute_target_vectors(target, requests.iloc[[number]].reset_index(drop=True), site, SEARCH)
        own = together.of_request(number)
        assert own.slots == alone.slots
        for one, other in zip(own._tensors, alone._tensors, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_values_of_something_else_are_refused(target, requests, tmp_path):
    editor = EDITED["memit"]
    with_saved_vectors(tmp_path, target, requests, editor, 2)
    paths = [tmp_path / f"shard-{shard}.safetensors" for shard in (0, 1)]
    other = editor.model_copy(update={"values": SEARCH.model_copy(update={"clamp_norm_factor": 0.5})})
    moved = editor.model_copy(update={"layers": [0]})

    for asked, changed, difference in (
        (target, {"model": "abd"}, "model"),
        (target, {"requests": requests.assign(target_new="x")}, "requests"),
        (target, {"editor": other}, "settings"),
        (target, {"editor": moved}, "site"),
        (target, {"paths": paths[:1]}, "shards"),
        (replace(target, contexts=("Others .",)), {}, "contexts"),
    ):
        given = {"requests": requests, "editor": editor, "paths": paths, "model": "abc"} | changed
        with pytest.raises(EditError, match=f"shard-0.safetensors was computed for other {difference}; delete it"):
            compute_z.load_target_vectors(asked, **given)


def test_dropped_requests_and_those_beyond_the_schedule_are_not_sought(requests):
    dropped = requests.assign(dropped=["the target is empty", *[""] * 7])

    assert scheduled_requests(dropped, EditSchedule(n_edits=3))["edit_id"].tolist() == requests["edit_id"].tolist()[1:4]


def test_editors_share_values_only_where_they_seek_the_same():
    site, values = {"fact_token": "last", "layers": [1, 2]}, {"clamp_norm_factor": 0.5}
    same = site | {"values": values}
    config = parse(
        Config,
        {
            "models": {"m": {
                "source": {"kind": "folder", "path": "."},
                "editing": {"covariance": "c", "target_vectors": {"shared": True}, "editors": [
                    "locft", "memit", "alphaedit", "emmet", "other-values", "other-site", "single", "also-single",
                    "fewer", "sequence", "boundary",
                ]},
            }},
            "covariances": {"c": {"corpus": "c"}},
            "editors": {
                "locft": {"kind": "locft"},
                "memit": {"kind": "memit", **same},
                "alphaedit": {"kind": "alphaedit", "residual_fraction": 0.5, **same},
                "emmet": {"kind": "emmet", **same, "layers": [2]},
                "other-values": {"kind": "memit", **site},
                "other-site": {"kind": "memit", "values": values},
                "single": {"kind": "rome", "layers": [2]},
                "also-single": {"kind": "rome", "layers": [2], "legacy": True},
                "fewer": {"kind": "memit", **same, "schedule": {"n_edits": 50}},
                "sequence": {"kind": "memit", **same, "schedule": {"kind": "sequential"}},
                "boundary": {"kind": "memit", **same, "spread": "boundary"},
            },
        },
    )  # fmt: skip

    found = {name: target_vector_source(config, "m", name) for name in config.models["m"].editing.editors}

    assert found == {
        "locft": None, "memit": "memit", "alphaedit": "memit", "emmet": "memit", "other-values": "other-values",
        "other-site": "other-site", "single": "single", "also-single": "single", "fewer": "fewer", "sequence": None,
        "boundary": None,
    }  # fmt: skip
    model = config.models["m"]
    independent = model.editing.model_copy(update={"target_vectors": SharedTargetVectors()})
    models = {"m": model.model_copy(update={"editing": independent})}
    assert target_vector_source(config.model_copy(update={"models": models}), "m", "memit") is None
