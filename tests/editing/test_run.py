"""Schedules: what is written, what is judged, and that the model comes back bit by bit."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from factlife.config.editing import (
    AlphaEdit,
    Emmet,
    Ft,
    LocFt,
    Lora,
    Memit,
    Mend,
    Place,
    Requests,
    Rome,
    Schedule,
    UltraEdit,
    Values,
)
from factlife.editing.editable import EditError, applied, write
from factlife.editing.editors import EDITORS
from factlife.editing.evaluate import judge
from factlife.editing.mend import Hypernetwork
from factlife.editing.requests import from_world, probes_of_world
from factlife.editing.run import run, save

FAST = Values(steps=15, contexts=1, clamp=4.0, rate=0.5, stop=0.01)
PLACE = Place(token="last", layers=[1, 2])
ONE = Place(token="last", layers=[2])
EDITED = {
    "rome": Rome(kind="rome", place=ONE, values=FAST),
    "emmet": Emmet(kind="emmet", place=ONE, values=FAST),
    "memit": Memit(kind="memit", place=PLACE, values=FAST),
    "alphaedit": AlphaEdit(kind="alphaedit", place=PLACE, values=FAST, energy=0.5),
    "ultraedit": UltraEdit(kind="ultraedit", layers=[1, 2]),
    "ft": Ft(kind="ft", layer=2, rate=0.02, limit=1.0),
    "locft": LocFt(kind="locft", layer=1, rate=0.02, epochs=20),
    "lora": Lora(kind="lora", layers=[1], rate=0.02, epochs=10),
    "mend": Mend(kind="mend", hypernetwork="steps"),
}


@pytest.fixture
def requests(world):
    return from_world(world, Requests(count=6))


@pytest.fixture
def probes(requests, world):
    return probes_of_world(requests, world)


def bits(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_bits(model, before):
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("kind", EDITED)
def test_every_editor_makes_new_values_likelier_and_leaves_the_model_as_it_was(target, requests, probes, kind):
    few = requests.head(1 if kind == "rome" else 4)
    # An untrained one takes a step along the gradient.
    names = [target.weight_name(layer).removesuffix(".weight") for layer in (1, 2)]
    target = replace(target, hypernetwork=Hypernetwork(dict.fromkeys(names, (48, 32)), rank=2, rate=0.1))
    asked = probes[(probes["metric"] == "efficacy") & probes["edit_id"].isin(few["edit_id"])].reset_index(drop=True)
    before, weights = judge(target.model, target.tokenizer, asked), bits(target.model)

    deltas = EDITORS[kind](target, few, EDITED[kind], {})

    assert_same_bits(target.model, weights)
    assert set(EDITORS) == set(EDITED)
    layers = {"locft": [1], "rome": [2], "emmet": [2], "ft": [2]}.get(kind, [1, 2])
    if kind == "lora":
        assert len(deltas) == 7 and all(name.startswith("model.layers.1.") for name in deltas)
    else:
        assert set(deltas) == {target.weight_name(layer) for layer in layers}
    with applied(target.model, deltas):
        after = judge(target.model, target.tokenizer, asked)
    assert_same_bits(target.model, weights)
    assert (after["nats"] < before["nats"]).all()
    assert after["probability"].mean() > before["probability"].mean() or before["probability"].all()


def test_rome_of_one_request_is_emmet_without_its_ridge(target, requests):
    one = requests.head(1)

    rome = EDITORS["rome"](target, one, EDITED["rome"], {})
    emmet = EDITORS["emmet"](target, one, EDITED["emmet"].model_copy(update={"weight": 0.0}), {})

    for name, change in rome.items():
        torch.testing.assert_close(change, emmet[name])


def test_single_edits_are_rolled_back_and_judged_alone(target, requests, probes):
    weights = bits(target.model)

    done = run(
        target, requests, probes, EDITED["rome"].model_copy(update={"schedule": Schedule(kind="single", edits=2)})
    )

    assert_same_bits(target.model, weights)
    edits = requests["edit_id"].tolist()[:2]
    name = target.weight_name(2)
    assert set(done.deltas) == {f"{name}@{edit}" for edit in edits}
    table = done.verdicts
    assert set(table["phase"]) == {"pre", "post"} and set(table[table["phase"] == "post"]["n_edits"]) == {1}
    post = table[table["phase"] == "post"]
    assert set(post["edit_id"]) == {*edits, ""}
    for edit in edits:
        person = edit.split(".")[0]
        other = post[(post["metric"] == "same_subject") & (post["about"].str.split(".").str[0] == person)]
        assert len(other) == 5 and edit not in set(other["about"])
    with applied(target.model, {name: done.deltas[f"{name}@{edits[0]}"]}):
        asked = probes[probes["probe_id"] == f"{edits[0]}.efficacy"].reset_index(drop=True)
        again = judge(target.model, target.tokenizer, asked)["nats"].iloc[0]
    found = post[post["probe_id"] == f"{edits[0]}.efficacy"]["nats"].iloc[0]
    assert again == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("kind", ["memit", "alphaedit"])
def test_batches_upon_one_another_add_up(target, requests, probes, kind):
    schedule = Schedule(kind="sequential", edits=6, batch=2, points=2)
    editor = EDITED[kind].model_copy(update={"schedule": schedule})
    weights = bits(target.model)

    done = run(target, requests, probes, editor)

    assert_same_bits(target.model, weights)
    table = done.verdicts
    assert sorted(set(table[table["phase"] == "post"]["n_edits"])) == [2, 4, 6]
    assert sorted(set(table[table["phase"] == "end"]["n_edits"])) == [4, 6]
    efficacy = table[(table["metric"] == "efficacy") & (table["n_edits"] == 6)]
    assert [len(rows) for _, rows in efficacy.groupby("phase")] == [6, 2]
    assert not set(table[table["metric"].isin(["recall", "same_subject"])]["about"]) & set(requests["edit_id"])
    with applied(target.model, done.deltas):
        end = table[(table["phase"] == "end") & (table["n_edits"] == 6)].set_index("probe_id")
        asked = probes[probes["probe_id"].isin(end.index)].reset_index(drop=True)
        again = judge(target.model, target.tokenizer, asked)
    found = end.loc[asked["probe_id"], "nats"].astype(float).to_numpy()
    assert again["nats"].astype(float).to_numpy() == pytest.approx(found, rel=1e-4)


def test_one_batch_is_a_sequence_of_one_batch(target, requests, probes):
    batch, sequence = (
        run(target, requests, probes, EDITED["memit"].model_copy(update={"schedule": schedule}))
        for schedule in (Schedule(edits=4), Schedule(kind="sequential", edits=4, batch=4, points=1))
    )

    assert all(torch.equal(change, sequence.deltas[name]) for name, change in batch.deltas.items())


def test_what_the_original_model_said_is_what_unchanged_compares_with(target, requests, probes):
    done = run(target, requests, probes, EDITED["memit"].model_copy(update={"schedule": Schedule(edits=4)}))

    table = done.verdicts.set_index(["phase", "probe_id"])
    pre, end = table.loc["pre"], table.loc["end"]
    assert pre["unchanged"].all()
    assert (end["unchanged"] == (end["first_token"] == pre["first_token"].loc[end.index])).all()


def test_a_run_is_written_as_safetensors_and_parquet(target, requests, probes, tmp_path):
    done = run(target, requests, probes, EDITED["locft"].model_copy(update={"schedule": Schedule(edits=2)}))

    save(done, tmp_path, model="m", seed="3", editor="locft")

    assert torch.equal(
        load_file(tmp_path / "deltas.safetensors")[target.weight_name(1)], done.deltas[target.weight_name(1)]
    )
    table = pd.read_parquet(tmp_path / "edits.parquet")
    assert table.columns[:3].tolist() == ["model", "seed", "editor"] and set(table["seed"]) == {3}


def test_judges_differ_where_they_should(target, probes):
    asked = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    swapped = asked.assign(wanted=asked["other"], other=asked["wanted"])

    found, other = (judge(target.model, target.tokenizer, one) for one in (asked, swapped))

    assert (found["probability"] != other["probability"]).all()
    pd.testing.assert_series_equal(found["nats"], other["nats_other"], check_names=False)
    assert judge(target.model, target.tokenizer, asked.assign(other=""))["probability"].isna().all()


def test_a_change_that_is_not_finite_is_not_written(target):
    weights = bits(target.model)
    name = target.weight_name(0)

    with pytest.raises(EditError, match="not finite; nothing was written"):
        write(target.model, {name: torch.full_like(weights[name], torch.nan)})
    assert_same_bits(target.model, weights)


def test_models_that_write_through_a_norm_are_refused_by_closed_forms(target, requests, monkeypatch):
    monkeypatch.setattr(type(target), "parts", property(lambda _: type("Parts", (), {"post_normed": True})))

    with pytest.raises(EditError, match="through a norm"):
        EDITORS["memit"](target, requests, EDITED["memit"], {})
