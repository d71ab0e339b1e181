"""Target values found before editors run: the same bits, however many jobs find them and whoever reads them."""

from dataclasses import replace

import pytest
import torch

from factlife.config import parse
from factlife.config.editing import AlphaEdit, Editing, Memit, Place, Requests, Rome, Schedule, Values, found_by
from factlife.editing import values
from factlife.editing.editable import EditError
from factlife.editing.editors import EDITORS
from factlife.editing.requests import chosen, from_world, probes_of_world
from factlife.editing.run import run

SEARCH = Values(steps=6, contexts=2, clamp=4.0, rate=0.5, batch=3)
PLACE = Place(token="last", layers=[1, 2])
BATCH = {"place": PLACE, "values": SEARCH, "schedule": Schedule(edits=8)}
EDITED = {
    "memit": Memit(kind="memit", **BATCH),
    "alphaedit": AlphaEdit(kind="alphaedit", energy=0.5, **BATCH),
    "memit at subjects": Memit(kind="memit", **BATCH | {"place": Place(token="subject_last", layers=[1])}),
    "rome": Rome(kind="rome", **BATCH | {"place": Place(layers=[1]), "schedule": Schedule(kind="single", edits=4)}),
}


@pytest.fixture
def requests(world):
    return from_world(world, Requests(count=8))


@pytest.fixture
def probes(requests, world):
    return probes_of_world(requests, world)


def found_in(folder, target, requests, editor, shards):
    """The model with target values that jobs have found."""
    paths = [folder / f"shard-{shard}.safetensors" for shard in range(shards)]
    for shard, path in enumerate(paths):
        values.find(
            target, requests, editor.place, editor.values, editor.schedule, path,
            model="abc", shard=shard, shards=shards,
        )  # fmt: skip
    return values.load(target, requests, editor, paths, model="abc")


@pytest.mark.parametrize("name", EDITED)
def test_edits_have_the_same_bits_whoever_finds_their_values(target, requests, probes, name, tmp_path, monkeypatch):
    editor = EDITED[name]
    few = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    expected = run(target, requests, few, editor).deltas

    known = [found_in(tmp_path, target, requests, editor, shards) for shards in (1, 3)]

    monkeypatch.setattr(values, "target_values", None)
    for one in known:
        deltas = run(one, requests, few, editor).deltas
        assert deltas.keys() == expected.keys()
        assert all(torch.equal(change, expected[key]) for key, change in deltas.items())


def test_two_editors_share_what_one_of_them_found(target, requests, tmp_path, monkeypatch):
    expected = EDITORS["alphaedit"](target, requests, EDITED["alphaedit"], {})
    known = found_in(tmp_path, target, requests, EDITED["memit"], 2)

    monkeypatch.setattr(values, "target_values", None)
    deltas = EDITORS["alphaedit"](known, requests, EDITED["alphaedit"], {})

    assert all(torch.equal(change, expected[key]) for key, change in deltas.items())


@pytest.mark.parametrize("shards", [2, 5, 40])
def test_shards_join_to_the_whole(target, requests, shards, tmp_path):
    editor = EDITED["memit"]
    whole = values.target_values(target, requests, editor.place, editor.values)

    joined = found_in(tmp_path, target, requests, editor, shards).found

    assert joined.slots == whole.slots and len(whole.delta) > 2 * SEARCH.batch
    for one, other in zip(joined._tensors, whole._tensors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("token", ["last", "subject_last"])
def test_requests_found_apart_are_found_as_if_alone(target, requests, token):
    place = Place(token=token, layers=[1])
    together = values.target_values(target, requests, place, SEARCH, apart=True)

    for number in range(len(requests)):
        alone = values.target_values(target, requests.iloc[[number]].reset_index(drop=True), place, SEARCH)
        own = together.of(number)
        assert own.slots == alone.slots
        for one, other in zip(own._tensors, alone._tensors, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_values_of_something_else_are_refused(target, requests, tmp_path):
    editor = EDITED["memit"]
    found_in(tmp_path, target, requests, editor, 2)
    paths = [tmp_path / f"shard-{shard}.safetensors" for shard in (0, 1)]
    other = editor.model_copy(update={"values": SEARCH.model_copy(update={"clamp": 0.5})})
    moved = editor.model_copy(update={"place": Place(token="last", layers=[0])})

    for asked, changed, difference in (
        (target, {"model": "abd"}, "model"),
        (target, {"requests": requests.assign(target="x")}, "requests"),
        (target, {"editor": other}, "settings"),
        (target, {"editor": moved}, "place"),
        (target, {"paths": paths[:1]}, "shards"),
        (replace(target, contexts=("Others .",)), {}, "contexts"),
    ):
        given = {"requests": requests, "editor": editor, "paths": paths, "model": "abc"} | changed
        with pytest.raises(EditError, match=f"shard-0.safetensors was found for other {difference}; delete it"):
            values.load(asked, **given)


def test_dropped_requests_and_those_beyond_the_schedule_are_not_sought(requests):
    dropped = requests.assign(dropped=["the target is empty", *[""] * 7])

    assert chosen(dropped, Schedule(edits=3))["edit_id"].tolist() == requests["edit_id"].tolist()[1:4]


def test_editors_share_values_only_where_they_seek_the_same():
    place, search = {"token": "last", "layers": [1, 2]}, {"clamp": 0.5}
    same = {"place": place, "values": search}
    editing = parse(
        Editing,
        {
            "models": {"m": {"moments": "c", "values": {"shared": True}, "editors": [
                "locft", "memit", "alphaedit", "emmet", "other-search", "other-place", "single", "also-single", "fewer",
                "sequence", "boundary",
            ]}},
            "moments": {"c": {"corpus": "c"}},
            "editors": {
                "locft": {"kind": "locft"},
                "memit": {"kind": "memit", **same},
                "alphaedit": {"kind": "alphaedit", "share": 0.5, **same},
                "emmet": {"kind": "emmet", **same, "place": {"token": "last", "layers": [2]}},
                "other-search": {"kind": "memit", "place": place},
                "other-place": {"kind": "memit", "values": search},
                "single": {"kind": "rome", "place": {"layers": [2]}},
                "also-single": {"kind": "rome", "place": {"layers": [2]}, "legacy": True},
                "fewer": {"kind": "memit", **same, "schedule": {"edits": 50}},
                "sequence": {"kind": "memit", **same, "schedule": {"kind": "sequential"}},
                "boundary": {"kind": "memit", **same, "place": place | {"spread": "boundary"}},
            },
        },
    )  # fmt: skip

    found = {name: found_by(editing, "m", name) for name in editing.models["m"].editors}

    assert found == {
        "locft": None, "memit": "memit", "alphaedit": "memit", "emmet": "memit", "other-search": "other-search",
        "other-place": "other-place", "single": "single", "also-single": "single", "fewer": "fewer", "sequence": None,
        "boundary": None,
    }  # fmt: skip
    apart = editing.models["m"].model_copy(update={"values": type(editing.models["m"].values)()})
    assert found_by(editing.model_copy(update={"models": {"m": apart}}), "m", "memit") is None
