"""Editors against closed forms, slow versions and each other."""

import pytest
import torch

from factlife.config import parse
from factlife.config.editing import (
    Editor,
    EditRequests,
    EditSite,
    Ft,
    Lora,
    Memit,
    Rome,
    TargetVectorSettings,
    UltraEdit,
)
from factlife.config.editing_presets import PRESETS
from factlife.editing import compute_ks, compute_z
from factlife.editing.editable import EditError, apply_deltas, merge_deltas, tokenize_prompt
from factlife.editing.editors import EDITORS
from factlife.editing.editors.tuning import training_sequences
from factlife.editing.editors.ultraedit import RunningStatistics
from factlife.editing.requests import requests_from_world
from factlife.models.anatomy import capture

FAST = TargetVectorSettings(
    v_num_grad_steps=15, n_context_templates=2, clamp_norm_factor=4.0, units="relative", v_lr=0.5, v_loss_threshold=0.01
)
SUBJECT = EditSite(fact_token="subject_last", layers=[1])


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=6))


def memit(**changed):
    defaults = {"fact_token": "last", "layers": [1, 2], "values": FAST}
    return Memit(kind="memit", **defaults | changed)


def test_rome_as_first_published_divides_by_the_bare_prompts_key(target, requests):
    one, settings = requests.head(1), Rome(kind="rome", **dict(SUBJECT), values=FAST, legacy=True)

    found = EDITORS["rome"](target, one, settings, {})[target.weight_name(1)].double()

    slots = compute_ks.vector_slots(target, one, SUBJECT, one_vector_per_subject=True)
    mean, bare = (
        compute_ks.compute_keys(target, one, slots, SUBJECT, 1, number, half_bare=False)[:, 0].double()
        for number in (2, 0)
    )
    direction = torch.linalg.solve(target.key_covariance(1), mean)
    delta = compute_z.compute_target_vectors(target, one, SUBJECT, FAST).delta[0].double()
    torch.testing.assert_close(found, torch.outer(delta, direction) / (direction @ bare), rtol=1e-4, atol=1e-6)
    averaged = EDITORS["rome"](target, one, settings.model_copy(update={"legacy": False}), {})
    torch.testing.assert_close(averaged[target.weight_name(1)].double() @ mean, delta, rtol=1e-4, atol=1e-5)


def test_rome_reads_the_plain_mean_of_bare_prompt_and_contexts(target, requests):
    slots = compute_ks.vector_slots(target, requests, SUBJECT, one_vector_per_subject=True)
    bare = compute_ks.compute_keys(target, requests, slots, SUBJECT, 1, 0)
    halves, mean = (
        compute_ks.compute_keys(target, requests, slots, SUBJECT, 1, 2, half_bare=half_bare)
        for half_bare in (True, False)
    )

    torch.testing.assert_close(mean, (bare + 2 * (2 * halves - bare)) / 3)


def test_without_the_corpus_rome_writes_along_the_key(target, requests):
    one, settings = requests.head(1), Rome(kind="rome", **dict(SUBJECT), values=FAST, mom2_adjustment=False)

    found = EDITORS["rome"](target, one, settings, {})[target.weight_name(1)]

    slots = compute_ks.vector_slots(target, one, SUBJECT, one_vector_per_subject=True)
    key = compute_ks.compute_keys(target, one, slots, SUBJECT, 1, 2, half_bare=False)[:, 0]
    rows_ = found / found.norm(dim=1, keepdim=True)
    assert torch.allclose((rows_ @ (key / key.norm())).abs(), torch.ones(len(found)), atol=1e-4)


def test_the_ridge_of_encore_is_added_to_what_is_spared(target, requests):
    plain, ridged = (
        EDITORS["memit"](
            target,
            requests,
            memit(**dict(EditSite(fact_token="last", layers=[2])), mom2_update_weight=20.0, update_norm_lambda=ridge),
            {},
        )
        for ridge in (0.0, 7.0)
    )

    site = EditSite(fact_token="last", layers=[2])
    found = compute_z.compute_target_vectors(target, requests, site, FAST)
    keys = compute_ks.compute_keys(target, requests, found.slots, site, 2, 2).double()
    left = (found.z - compute_ks.compute_hidden_states(target, requests, found.slots, site, 2)).double().T
    moment, name = target.key_covariance(2), target.weight_name(2)
    for change, ridge in ((plain, 0.0), (ridged, 7.0)):
        spared = 20 * moment + ridge * torch.eye(len(moment)) + keys @ keys.T
        expected = left @ keys.T @ torch.linalg.inv(spared)
        torch.testing.assert_close(change[name].double(), expected, rtol=1e-4, atol=1e-6)
    assert ridged[name].norm() < plain[name].norm()


def test_at_the_boundary_each_of_two_layers_has_vectors_of_its_own(target, requests):
    both = EDITORS["memit"](
        target, requests, memit(**dict(EditSite(fact_token="last", layers=[0, 1, 2], spread="boundary"))), {}
    )

    first = EDITORS["memit"](target, requests, memit(**dict(EditSite(fact_token="last", layers=[0]))), {})
    with apply_deltas(target.model, first):
        last = EDITORS["memit"](target, requests, memit(**dict(EditSite(fact_token="last", layers=[2]))), {})
    expected = merge_deltas(first, last)
    assert set(both) == {target.weight_name(0), target.weight_name(2)}
    for name, change in both.items():
        torch.testing.assert_close(change, expected[name])


def test_what_is_to_be_written_has_the_norm_of_the_first_batch(target, requests):
    site, memory = EditSite(fact_token="last", layers=[2]), {}
    settings = memit(
        **dict(site),
        values=FAST.model_copy(update={"norm_anchor": True, "n_context_templates": 0}),
        mom2_update_weight=1e-9,
    )
    EDITORS["memit"](target, requests.head(3), settings, memory)
    norm = memory["closed form"].norms[2]

    change = EDITORS["memit"](target, requests.tail(2), settings, memory)

    found = compute_z.compute_target_vectors(target, requests.head(3), site, settings.values)
    norms = (found.mlp_output + found.delta).norm(dim=1)
    assert norm == pytest.approx(norms.mean().item(), rel=1e-5)
    assert memory["closed form"].norms == {2: norm}
    later = requests.tail(2).reset_index(drop=True)
    slots = compute_ks.vector_slots(target, later, site, one_vector_per_subject=True)
    with apply_deltas(target.model, change):
        one = later.iloc[0]
        made = tokenize_prompt(target, site, one["prompt"], one["subject"], one["target_new"], slots[0].token)
        with capture({"mlp": target.parts.blocks[2].mlp}) as read, torch.no_grad():
            target.model(torch.tensor([made.input_ids]))
    free = compute_z.compute_target_vectors(target, later, site, settings.values)
    length = (free.mlp_output[0] + free.delta[0]).norm().item()
    wanted = norm if length <= 2 * norm else free.mlp_output[0].norm().item()
    assert read["mlp"][0, made.edit_position].norm().item() == pytest.approx(wanted, rel=1e-3)


def test_no_entry_moves_farther_than_the_limit(target, requests):
    settings = Ft(kind="ft", layer=1, learning_rate=0.05, norm_constraint=0.3, num_steps=6, loss_threshold=0.0)
    name = target.weight_name(1)
    deviation = dict(target.model.named_parameters())[name].std().item()

    held, absolute, free = (
        EDITORS["ft"](target, requests, settings.model_copy(update=changed), {})[name]
        for changed in ({}, {"units": "published", "norm_constraint": 0.3 * deviation}, {"norm_constraint": 1e9})
    )

    assert held.abs().max().item() == pytest.approx(0.3 * deviation, rel=1e-4)
    assert torch.equal(held, absolute)
    assert free.abs().max() > 0.05


def test_fine_tuning_ends_once_the_loss_is_low(target, requests):
    one = requests.head(1)
    settings = Ft(kind="ft", layer=2, learning_rate=1e-3, norm_constraint=1e9, num_steps=4, loss_threshold=1e9)
    name = target.weight_name(2)

    change = EDITORS["ft"](target, one, settings, {})[name]

    # Adam's first step is the sign of the gradient.
    assert change.abs().max().item() == pytest.approx(1e-3, rel=1e-2)


def test_answers_can_end_with_the_end_of_text(target, requests):
    plain, ended = (training_sequences(target, requests, append_eos=end) for end in (False, True))

    for short, long in zip(plain, ended, strict=True):
        assert long.target_ids == [*short.target_ids, target.tokenizer.eos_token_id]
        assert long.input_ids == [*short.input_ids, short.target_ids[-1]] and long.prompt_end == short.prompt_end


def test_lora_changes_have_the_rank_and_do_what_the_adapter_did(target, requests):
    settings = Lora(kind="lora", layers=[-1], r=2, lora_alpha=4, learning_rate=0.02, epochs=15)

    deltas = EDITORS["lora"](target, requests.head(2), settings, {})

    shapes = {name: parameter.shape for name, parameter in target.model.named_parameters()}
    for name, change in deltas.items():
        assert change.shape == shapes[name] and name.startswith("model.layers.2.")
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    again = EDITORS["lora"](target, requests.head(2), settings, {})
    assert all(torch.equal(change, again[name]) for name, change in deltas.items())
    made = training_sequences(target, requests.head(2))
    with torch.no_grad():
        before, after = [], []
        for one in made:
            before.append(
                target.model(torch.tensor([one.input_ids])).logits[0, one.prompt_end].log_softmax(-1)[one.target_ids[0]]
            )
            with apply_deltas(target.model, deltas):
                after.append(
                    target.model(torch.tensor([one.input_ids]))
                    .logits[0, one.prompt_end]
                    .log_softmax(-1)[one.target_ids[0]]
                )
    assert (torch.stack(after) > torch.stack(before) + 0.5).all()


def test_running_statistics_are_those_of_all_rows(generator):
    rows_ = torch.randn(30, 4, generator=generator, dtype=torch.float64) * 3 + 1

    running = (
        RunningStatistics.of(rows_[:7]).join(RunningStatistics.of(rows_[7:20])).join(RunningStatistics.of(rows_[20:]))
    )

    torch.testing.assert_close(running.mean, rows_.mean(0))
    expected = (rows_ - rows_.mean(0)) / rows_.std(0, correction=0)
    torch.testing.assert_close(running.standardise(rows_), expected, rtol=1e-5, atol=1e-6)


def test_ultraedit_is_the_published_form_token_by_token(target, requests):
    settings = UltraEdit(kind="ultraedit", layers=[2], units="published", learning_rate=1e-3, ridge=1.0)
    module, keys, slopes = target.parts.blocks[2].mlp_out, [], []
    for one in training_sequences(target, requests):
        with capture({"in": module}, inputs=True) as read, capture({"out": module}) as returned:
            said = target.model(torch.tensor([one.input_ids])).logits[0].log_softmax(-1)
        loss = -sum(said[one.prompt_end + step, token] for step, token in enumerate(one.target_ids))
        (slope,) = torch.autograd.grad(loss, [returned["out"]])
        places = slice(one.prompt_end, one.prompt_end + len(one.target_ids))
        keys.append(read["in"][0, places].detach().double())
        slopes.append(slope[0, places].double())
    keys, slopes = torch.cat(keys), torch.cat(slopes)

    found = EDITORS["ultraedit"](target, requests, settings, {})[target.weight_name(2)]

    normed, direction = ((one - one.mean(0)) / one.std(0, correction=0) for one in (keys, slopes))
    wanted = -1e-3 * (normed**2).sum(1, keepdim=True) * direction
    expected = torch.linalg.solve(keys.T @ keys + torch.eye(48, dtype=torch.float64), keys.T @ wanted).T
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_ultraedit_changes_the_maps_that_are_named(target, requests):
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate_proj"]
    settings = UltraEdit(kind="ultraedit", modules=names)

    deltas = EDITORS["ultraedit"](target, requests, settings, {})

    assert set(deltas) == {f"{name}.weight" for name in names}
    with pytest.raises(EditError, match="no linear map 'up_proj'"):
        EDITORS["ultraedit"](target, requests, UltraEdit(kind="ultraedit", modules=["up_proj"]), {})


@pytest.mark.parametrize(("kind", "preset"), [(kind, one) for kind, known in PRESETS.items() for one in known])
def test_presets_are_complete_and_yield_to_what_is_given(kind, preset):
    settings = parse(Editor, {"kind": kind, "preset": preset})

    for name, value in PRESETS[kind][preset].items():
        found = getattr(settings, name)
        if isinstance(value, dict):
            assert {key: found.model_dump()[key] for key in value} == value
        else:
            assert found == value
    assert parse(Editor, settings.model_dump(mode="json")) == settings
    assert parse(Editor, {"kind": kind, "preset": preset, "schedule": {"n_edits": 7}}).schedule.n_edits == 7


def test_presets_are_the_published_values():
    memit, alphaedit, rome = (
        parse(Editor, {"kind": kind, "preset": "gpt-j", "values": {"clamp_norm_factor": clamp}})
        for kind, clamp in (("memit", 0.5), ("alphaedit", 0.75), ("rome", 4))
    )

    assert memit.layers == [3, 4, 5, 6, 7, 8] and memit.mom2_update_weight == 15000
    assert memit.values.clamp_norm_factor == 0.5
    values = memit.values
    assert (values.units, values.v_lr, values.v_num_grad_steps, values.v_weight_decay) == ("published", 0.5, 25, 0.5)
    assert (alphaedit.nullspace_threshold, alphaedit.L2, alphaedit.schedule.edits_per_batch) == (0.02, 10, 100)
    values = rome.values
    assert (rome.layers, values.norm_site, values.v_num_grad_steps, values.n_context_templates) == ([5], "mlp", 20, 20)
    with pytest.raises(ValueError, match="`gpt-5` is no preset of memit; there are gpt2-xl, gpt-j"):
        parse(Editor, {"kind": "memit", "preset": "gpt-5"})
