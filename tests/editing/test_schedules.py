"""Schedules: the edits, their evaluations, and the restored model, bit by bit."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from factlife.config.editing import (
    AlphaEdit,
    EditRequests,
    EditSchedule,
    EditSite,
    Emmet,
    Ft,
    LocFt,
    Lora,
    Memit,
    Mend,
    Rome,
    TargetVectorSettings,
    UltraEdit,
)
from factlife.editing.editable import EditError, add_deltas, apply_deltas
from factlife.editing.editors import EDITORS
from factlife.editing.evaluate import evaluate_probes
from factlife.editing.mend import Hypernetwork
from factlife.editing.requests import probes_from_world, requests_from_world
from factlife.editing.schedules import run_editor, save_result

FAST = TargetVectorSettings(
    v_num_grad_steps=15, n_context_templates=1, clamp_norm_factor=4.0, units="relative", v_lr=0.5, v_loss_threshold=0.01
)
SITE = EditSite(fact_token="last", layers=[1, 2])
ONE = EditSite(fact_token="last", layers=[2])
EDITED = {
    "rome": Rome(kind="rome", **dict(ONE), values=FAST),
    "emmet": Emmet(kind="emmet", **dict(ONE), values=FAST),
    "memit": Memit(kind="memit", **dict(SITE), values=FAST),
    "alphaedit": AlphaEdit(kind="alphaedit", **dict(SITE), values=FAST, nullspace_energy=0.5),
    "ultraedit": UltraEdit(kind="ultraedit", layers=[1, 2]),
    "ft": Ft(kind="ft", layer=2, learning_rate=0.02, norm_constraint=1.0),
    "locft": LocFt(kind="locft", layer=1, learning_rate=0.02, epochs=20),
    "lora": Lora(kind="lora", layers=[1], learning_rate=0.02, epochs=10),
    "mend": Mend(kind="mend", hypernetwork="steps"),
}


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=6))


@pytest.fixture
def probes(requests, world):
    return probes_from_world(requests, world)


def bits(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_bits(model, before):
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("kind", EDITED)
def test_every_editor_makes_new_values_likelier_and_leaves_the_model_as_it_was(target, requests, probes, kind):
    few = requests.head(1 if kind == "rome" else 4)
    # An untrained one takes a step along the gradient.
    names = [target.weight_name(layer).removesuffix(".weight") for layer in (1, 2)]
    target = replace(target, hypernetwork=Hypernetwork(dict.fromkeys(names, (48, 32)), rank=2, edit_lr=0.1))
    asked = probes[(probes["metric"] == "efficacy") & probes["edit_id"].isin(few["edit_id"])].reset_index(drop=True)
    before, weights = evaluate_probes(target.model, target.tokenizer, asked), bits(target.model)

    deltas = EDITORS[kind](target, few, EDITED[kind], {})

    assert_same_bits(target.model, weights)
    assert set(EDITORS) == set(EDITED)
    layers = {"locft": [1], "rome": [2], "emmet": [2], "ft": [2]}.get(kind, [1, 2])
    if kind == "lora":
        assert len(deltas) == 7 and all(name.startswith("model.layers.1.") for name in deltas)
    else:
        assert set(deltas) == {target.weight_name(layer) for layer in layers}
    with apply_deltas(target.model, deltas):
        after = evaluate_probes(target.model, target.tokenizer, asked)
    assert_same_bits(target.model, weights)
    assert (after["nll"] < before["nll"]).all()
    assert after["probability"].mean() > before["probability"].mean() or before["probability"].all()


def test_rome_of_one_request_is_emmet_without_its_ridge(target, requests):
    one = requests.head(1)

    rome = EDITORS["rome"](target, one, EDITED["rome"], {})
    emmet = EDITORS["emmet"](target, one, EDITED["emmet"].model_copy(update={"emmet_lambda": 0.0}), {})

    for name, change in rome.items():
        torch.testing.assert_close(change, emmet[name])


def test_single_edits_are_rolled_back_and_judged_alone(target, requests, probes):
    weights = bits(target.model)

    done = run_editor(
        target, requests, probes, EDITED["rome"].model_copy(update={"schedule": EditSchedule(kind="single", n_edits=2)})
    )

    assert_same_bits(target.model, weights)
    edits = requests["edit_id"].tolist()[:2]
    name = target.weight_name(2)
    assert set(done.deltas) == {f"{name}@{edit}" for edit in edits}
    table = done.probes
    assert set(table["phase"]) == {"pre", "post"} and set(table[table["phase"] == "post"]["n_edits"]) == {1}
    post = table[table["phase"] == "post"]
    assert set(post["edit_id"]) == {*edits, ""}
    for edit in edits:
        person = edit.split(".")[0]
        other = post[(post["metric"] == "same_subject") & (post["fact_id"].str.split(".").str[0] == person)]
        assert len(other) == 5 and edit not in set(other["fact_id"])
    with apply_deltas(target.model, {name: done.deltas[f"{name}@{edits[0]}"]}):
        asked = probes[probes["probe_id"] == f"{edits[0]}.efficacy"].reset_index(drop=True)
        again = evaluate_probes(target.model, target.tokenizer, asked)["nll"].iloc[0]
    found = post[post["probe_id"] == f"{edits[0]}.efficacy"]["nll"].iloc[0]
    assert again == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("kind", ["memit", "alphaedit"])
def test_batches_upon_one_another_add_up(target, requests, probes, kind):
    schedule = EditSchedule(kind="sequential", n_edits=6, edits_per_batch=2, n_evaluations=2)
    editor = EDITED[kind].model_copy(update={"schedule": schedule})
    weights = bits(target.model)

    done = run_editor(target, requests, probes, editor)

    assert_same_bits(target.model, weights)
    table = done.probes
    assert sorted(set(table[table["phase"] == "post"]["n_edits"])) == [2, 4, 6]
    assert sorted(set(table[table["phase"] == "end"]["n_edits"])) == [4, 6]
    efficacy = table[(table["metric"] == "efficacy") & (table["n_edits"] == 6)]
    assert [len(rows) for _, rows in efficacy.groupby("phase")] == [6, 2]
    assert not set(table[table["metric"].isin(["recall", "same_subject"])]["fact_id"]) & set(requests["edit_id"])
    with apply_deltas(target.model, done.deltas):
        end = table[(table["phase"] == "end") & (table["n_edits"] == 6)].set_index("probe_id")
        asked = probes[probes["probe_id"].isin(end.index)].reset_index(drop=True)
        again = evaluate_probes(target.model, target.tokenizer, asked)
    found = end.loc[asked["probe_id"], "nll"].astype(float).to_numpy()
    assert again["nll"].astype(float).to_numpy() == pytest.approx(found, rel=1e-4)


def test_one_batch_is_a_sequence_of_one_batch(target, requests, probes):
    batch, sequence = (
        run_editor(target, requests, probes, EDITED["memit"].model_copy(update={"schedule": schedule}))
        for schedule in (
            EditSchedule(n_edits=4),
            EditSchedule(kind="sequential", n_edits=4, edits_per_batch=4, n_evaluations=1),
        )
    )

    assert all(torch.equal(change, sequence.deltas[name]) for name, change in batch.deltas.items())


def test_what_the_original_model_said_is_what_unchanged_compares_with(target, requests, probes):
    done = run_editor(
        target, requests, probes, EDITED["memit"].model_copy(update={"schedule": EditSchedule(n_edits=4)})
    )

    table = done.probes.set_index(["phase", "probe_id"])
    pre, end = table.loc["pre"], table.loc["end"]
    assert pre["unchanged"].all()
    assert (end["unchanged"] == (end["predicted_token"] == pre["predicted_token"].loc[end.index])).all()


def test_a_run_is_written_as_safetensors_and_parquet(target, requests, probes, tmp_path):
    done = run_editor(
        target, requests, probes, EDITED["locft"].model_copy(update={"schedule": EditSchedule(n_edits=2)})
    )

    save_result(done, tmp_path, model="m", seed="3", editor="locft")

    assert torch.equal(
        load_file(tmp_path / "deltas.safetensors")[target.weight_name(1)], done.deltas[target.weight_name(1)]
    )
    table = pd.read_parquet(tmp_path / "edits.parquet")
    assert table.columns[:3].tolist() == ["model", "seed", "editor"] and set(table["seed"]) == {3}


def test_judges_differ_where_they_should(target, probes):
    asked = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    swapped = asked.assign(target=asked["alternative"], alternative=asked["target"])

    found, other = (evaluate_probes(target.model, target.tokenizer, one) for one in (asked, swapped))

    assert (found["probability"] != other["probability"]).all()
    pd.testing.assert_series_equal(found["nll"], other["nll_alternative"], check_names=False)
    assert evaluate_probes(target.model, target.tokenizer, asked.assign(alternative=""))["probability"].isna().all()


def test_a_change_that_is_not_finite_is_not_written(target):
    weights = bits(target.model)
    name = target.weight_name(0)

    with pytest.raises(EditError, match="not finite; nothing was written"):
        add_deltas(target.model, {name: torch.full_like(weights[name], torch.nan)})
    assert_same_bits(target.model, weights)


def test_models_that_write_through_a_norm_are_refused_by_closed_forms(target, requests, monkeypatch):
    monkeypatch.setattr(type(target), "parts", property(lambda _: type("Parts", (), {"post_norm": True})))

    with pytest.raises(EditError, match="applies a norm to its MLP"):
        EDITORS["memit"](target, requests, EDITED["memit"], {})
