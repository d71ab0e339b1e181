"""MEND: the decomposed gradient, the network at its beginning, and what is learned from whom."""

import json
import random
from dataclasses import replace

import pytest
import torch

from factlife.config.editing import EditRequests, HypernetworkTraining, Mend
from factlife.editing import mend
from factlife.editing.editable import EditableModel, EditError, apply_deltas
from factlife.editing.editors import EDITORS
from factlife.editing.editors.tuning import answer_loss, training_sequences
from factlife.editing.requests import requests_from_world

SETTINGS = HypernetworkTraining(layers=[1, 2], rank=8, steps=4, edits_per_batch=3, train_edits=12, edit_lr=0.01)
EDITOR = Mend(kind="mend", hypernetwork="any")


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=6))


@pytest.fixture
def network(target):
    shapes = {name: part.weight.shape[::-1] for name, part in mend.edited_modules(target, SETTINGS).items()}
    return mend.Hypernetwork(shapes, rank=8, edit_lr=0.01)


def stirred(network, generator):
    """With parameters that are not those of the beginning."""
    with torch.no_grad():
        for part in network.parameters():
            part += 0.3 * torch.randn(part.shape, generator=generator)
    return network


def gradients(target, requests):
    """Of the sum over requests of the mean over tokens, by autograd."""
    modules = mend.edited_modules(target, SETTINGS)
    loss = sum(answer_loss(target.model, [one], 0) for one in training_sequences(target, requests))
    found = torch.autograd.grad(loss, [part.weight for part in modules.values()])
    return dict(zip(modules, found, strict=True))


def test_products_of_what_is_read_and_its_slopes_are_the_gradient(target, requests):
    found = mend.gradient_factors(target, mend.edited_modules(target, SETTINGS), training_sequences(target, requests))

    assert len(found) == 6
    for name, gradient in gradients(target, requests).items():
        read, slopes = found[name]
        torch.testing.assert_close(slopes.T @ read, gradient, rtol=1e-4, atol=1e-6)


def test_factors_of_a_request_do_not_depend_on_the_others(target, requests):
    modules, made = mend.edited_modules(target, SETTINGS), training_sequences(target, requests)
    together, alone = (
        mend.gradient_factors(target, modules, made),
        [mend.gradient_factors(target, modules, [one]) for one in made],
    )

    for name in modules:
        for part in (0, 1):
            expected = torch.cat([one[name][part] for one in alone])
            torch.testing.assert_close(together[name][part], expected, rtol=1e-4, atol=1e-6)


def test_an_untrained_network_without_statistics_takes_a_gradient_step(target, requests, network):
    deltas = EDITORS["mend"](replace(target, hypernetwork=network), requests, EDITOR, {})

    for name, gradient in gradients(target, requests).items():
        torch.testing.assert_close(deltas[f"{name}.weight"], -0.01 * gradient, rtol=1e-4, atol=1e-7)


def test_a_batch_is_written_as_the_sum_of_its_requests(target, requests, network, generator, monkeypatch):
    target = replace(target, hypernetwork=stirred(network, generator))
    together = EDITORS["mend"](target, requests, EDITOR, {})
    alone = [EDITORS["mend"](target, requests.iloc[[number]], EDITOR, {}) for number in range(len(requests))]
    monkeypatch.setattr(mend, "_GRADIENT_BATCH_SIZE", 4)
    in_parts = EDITORS["mend"](target, requests, EDITOR, {})

    for name, change in together.items():
        torch.testing.assert_close(change, sum(one[name] for one in alone), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(change, in_parts[name], rtol=1e-4, atol=1e-5)


def test_the_network_is_its_formula(generator):
    network = stirred(mend.Hypernetwork({"a": (3, 2), "b": (3, 2), "c": (2, 3)}, rank=4, edit_lr=0.5), generator)
    mean, deviation = torch.randn(5, generator=generator), torch.rand(5, generator=generator) + 0.5
    network.set_statistics("b", mean, deviation)
    read, slopes = torch.randn(7, 3, generator=generator), torch.randn(7, 2, generator=generator)

    found = network.weight_change("b", read, slopes)

    part, expected = network.networks["3x2"], torch.zeros(2, 3)
    for u, d in zip(read, slopes, strict=True):
        z = (torch.cat([u, d]) - mean) / deviation
        for layer in (part.first, part.second):
            z = z + torch.relu(layer.scale[1] * (layer.up @ (layer.down @ z) + layer.bias) + layer.shift[1])
        expected -= part.log_edit_lr[1].exp() * torch.outer(z[3:], z[:3])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert set(network.networks) == {"3x2", "2x3"} and len(network.networks["3x2"].log_edit_lr) == 2


def test_entries_that_never_vary_say_nothing(network):
    name = next(iter(network.shapes))
    width = sum(network.shapes[name])
    network.set_statistics(name, torch.zeros(width), torch.zeros(width))

    assert not network.weight_change(name, *torch.ones(1, width).split(network.shapes[name], 1)).any()


def test_lessons_are_about_other_subjects_and_ask_no_held_out_template(target, requests, world):
    learned = mend.select_train_edits(target, EditRequests(count=6), requests, n_edits=10, world=world)

    assert len(learned) == 10
    subjects, people = set(requests["subject"]), world.facts.set_index("fact_id")["entity_id"]
    names = world.entities.set_index("entity_id")["name"]
    assert not {names[people[one.edit_id]] for one in learned} & subjects
    held_out = set(world.probes["prompt"][world.probes["held_out_template"]])
    values = world.facts.set_index("fact_id")["value"]
    for one in learned:
        assert one.rewrites[0] == one.request and len(one.rewrites) > 1
        for made in one.rewrites:
            assert target.tokenizer.decode(made.input_ids[: made.prompt_end + 1]) not in held_out
            assert made.target_ids == one.request.target_ids
        assert len(one.locality) > 5
        for about, made in one.locality:
            assert about != one.edit_id and names[people[about]] not in subjects
            assert people[about] == people[one.edit_id] or values[about] == values[one.edit_id]
            assert target.tokenizer.decode(made.target_ids).strip() == values[about]


def test_requests_of_files_teach_by_their_paraphrases_and_neighbours(target, world, tmp_path):
    facts = world.facts[world.facts["relation"] == "employer"].merge(world.entities[["entity_id", "name"]])
    values = sorted(set(facts["value"]))
    records = [
        {
            "requested_rewrite": {
                "prompt": "{} works at", "subject": one.name, "relation_id": "P1",
                "target_new": {"str": next(value for value in values if value != one.value)},
                "target_true": {"str": one.value},
            },
            "paraphrase_prompts": [f"The end . {one.name} works at"],
            "neighborhood_prompts": [f"{facts['name'].iloc[0]} works at"],
        }
        for one in facts.itertuples(index=False)
    ]  # fmt: skip
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    settings = EditRequests(kind="counterfact", path=str(path), count=2)
    evaluated = facts.head(2).rename(columns={"name": "subject"})

    learned = mend.select_train_edits(target, settings, evaluated, n_edits=4, world=world, path=str(path))

    assert len(learned) == 4
    for one in learned:
        assert len(one.rewrites) == 2 and len(one.locality) == 1
    with pytest.raises(EditError, match="every request is about a subject of an evaluated request"):
        everyone = facts.rename(columns={"name": "subject"})
        mend.select_train_edits(target, settings, everyone, n_edits=4, world=world, path=str(path))


def test_what_a_batch_edits_is_not_to_be_kept(target, requests, world):
    learned = mend.select_train_edits(target, EditRequests(count=6), requests, n_edits=10, world=world)
    subject = learned[0].edit_id.split(".")[0]
    facts = [one for one in learned if one.edit_id.startswith(f"{subject}.")]
    batch = [mend.TrainEdit(one.edit_id, one.request, one.rewrites, learned[0].locality) for one in facts]
    batch += [mend.TrainEdit(about, made, [made], []) for about, made in learned[0].locality[:-1]]

    _, kept = mend._sample_sequences(batch, batch, random.Random(0))

    (about, free) = learned[0].locality[-1]
    assert kept and (about in {one.edit_id for one in facts} or all(made == free for made in kept))


def test_the_losses_are_what_the_slow_obvious_way_finds(target, requests, world, network, generator):
    modules = mend.edited_modules(target, SETTINGS)
    learned = mend.select_train_edits(target, EditRequests(count=6), requests, n_edits=4, world=world)
    asked, kept = [one.rewrites[-1] for one in learned], [one.locality[0][1] for one in learned]
    changes = stirred(network, generator).weight_changes(
        mend.gradient_factors(target, modules, [one.request for one in learned])
    )

    said, drift, right = mend._losses(target, modules, changes, asked, kept)

    with torch.no_grad():

        def log_p(one):
            places = slice(one.prompt_end, one.prompt_end + len(one.target_ids))
            return target.model(torch.tensor([one.input_ids])).logits[0, places].log_softmax(-1)

        before = [log_p(one) for one in kept]
        with apply_deltas(target.model, {f"{name}.weight": change for name, change in changes.items()}):
            now = [log_p(one) for one in asked]
            nats = [-p[range(len(p)), one.target_ids].mean() for p, one in zip(now, asked, strict=True)]
            off = [(p.exp() * (p - log_p(one))).sum(1).mean() for p, one in zip(before, kept, strict=True)]
        hits = [p.argmax(-1).tolist() == one.target_ids for p, one in zip(now, asked, strict=True)]
    torch.testing.assert_close(said, torch.stack(nats).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drift, torch.stack(off).mean(), rtol=1e-3, atol=1e-4)
    assert right == pytest.approx(sum(hits) / len(hits))
    assert said.requires_grad
    alone, nothing, _ = mend._losses(target, modules, changes, asked, [])
    torch.testing.assert_close(alone, said)
    assert not nothing


def test_training_lowers_the_loss_on_subjects_that_it_never_saw(target, requests, world, tmp_path):
    learned = mend.select_train_edits(target, EditRequests(count=6), requests, n_edits=40, world=world)
    settings = SETTINGS.model_copy(update={"steps": 30, "edits_per_batch": 4, "learning_rate": 0.003, "cedit": 1.0})
    weights = {name: part.detach().clone() for name, part in target.model.named_parameters()}

    network, log = mend.train_hypernetwork(target, learned, settings)

    assert all(torch.equal(part, weights[name]) for name, part in target.model.named_parameters())
    assert all(part.grad is None and part.requires_grad for part in target.model.parameters())
    assert len(log) == 30 and log[-1]["step"] == 30
    asked = training_sequences(target, requests)
    untrained = mend.Hypernetwork(network.shapes, rank=8, edit_lr=0.01)
    untrained.load_state_dict(
        {name: part for name, part in network.state_dict().items() if "mean" in name or "deviation" in name},
        strict=False,
    )
    nats = []
    for one in (untrained, network):
        deltas = [EDITORS["mend"](replace(target, hypernetwork=one), requests.iloc[[n]], EDITOR, {}) for n in range(6)]
        with torch.no_grad():
            for number, delta in enumerate(deltas):
                with apply_deltas(target.model, delta):
                    nats.append(answer_loss(target.model, [asked[number]], 0).item())
    assert sum(nats[6:]) < sum(nats[:6])
    again, _ = mend.train_hypernetwork(target, learned, settings)
    assert all(torch.equal(part, again.state_dict()[name]) for name, part in network.state_dict().items())
    mend.save_hypernetwork(network, tmp_path / "network.safetensors", model="abc", log=log)
    read = mend.load_hypernetwork(tmp_path / "network.safetensors", model="abc")
    assert all(torch.equal(part, read.state_dict()[name]) for name, part in network.state_dict().items())
    with pytest.raises(EditError, match="trained on other weights"):
        mend.load_hypernetwork(tmp_path / "network.safetensors", model="other")


def test_without_a_network_the_editor_says_so(target, requests):
    with pytest.raises(EditError, match="no hypernetwork was trained"):
        EDITORS["mend"](target, requests, EDITOR, {})
    with pytest.raises(EditError, match="no linear map 'up_proj'"):
        mend.edited_modules(target, SETTINGS.model_copy(update={"modules": ["up_proj"]}))


def test_maps_that_keep_their_weight_the_other_way_round(tokenizer, requests, network):
    from factlife.config.training import Scratch
    from factlife.models import initialize_model

    config = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48}
    model = initialize_model(Scratch(kind="scratch", architecture="GPT2LMHeadModel", config=config), tokenizer, 0)
    target = EditableModel(model, tokenizer)
    modules = mend.edited_modules(target, SETTINGS)
    shapes = {name: tuple(part.weight.shape) for name, part in modules.items()}

    deltas = EDITORS["mend"](
        replace(target, hypernetwork=mend.Hypernetwork(shapes, rank=4, edit_lr=0.01)), requests, EDITOR, {}
    )

    assert len(modules) == 4
    for name, gradient in gradients(target, requests).items():
        torch.testing.assert_close(deltas[f"{name}.weight"], -0.01 * gradient, rtol=1e-4, atol=1e-7)
