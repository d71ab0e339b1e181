"""Fine-tuning after edits: what is trained, what is compared, and small exact cases of the table."""

import copy
import math

import pandas as pd
import pytest
import torch
from peft.tuners.lora import LoraLayer

from factlife.config.editing import EditRequests, EditSurvival
from factlife.editing import summarise_survival
from factlife.editing.evaluate import evaluate_probes
from factlife.editing.requests import EditError, probes_from_world, requests_from_world
from factlife.editing.summary import SURVIVAL_KEYS
from factlife.editing.survival import (
    _match_controls,
    finetune,
    finetune_and_evaluate,
    margins,
    relearn,
    select_documents,
    update_cosine,
)

SETTINGS = EditSurvival(editors=["memit"], steps=[1, 3], batch_size=2, r=2, learning_rate=0.01, full_learning_rate=0.01)


@pytest.fixture
def documents(world, tokenizer):
    people = world.entities["entity_id"].tolist()
    texts = [*world.probes["prompt"].head(12), "The end . A day begins ."]
    owners = [[fact.split(".")[0]] for fact in world.probes["fact_id"].head(12)] + [["nobody"]]
    assert {owner for (owner,) in owners[:-1]} <= set(people)
    return pd.DataFrame({"input_ids": tokenizer(texts)["input_ids"], "entity_ids": owners, "fact_ids": [[]] * 13})


@pytest.mark.parametrize("how", ["full", "lora", "dora"])
@pytest.mark.parametrize("layers", [[1], [0, 2]], ids=str)
def test_only_the_asked_blocks_are_trained_and_the_model_stays(target, documents, how, layers):
    weights = {name: parameter.clone() for name, parameter in target.model.named_parameters()}
    ids = torch.tensor([documents["input_ids"].iloc[0]])

    states = {}
    for step, tuned in finetune(target.model, target.tokenizer, documents["input_ids"].tolist(), SETTINGS, how, layers):
        with torch.no_grad():
            states[step] = tuned(ids).logits
        changed = {
            name.replace(".base_layer", "")
            for name, parameter in tuned.named_parameters()
            if "lora_" not in name and not torch.equal(parameter, weights[name.replace(".base_layer", "")])
        }
        trained = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]

    assert sorted(states) == [0, 1, 3]
    with torch.no_grad():
        torch.testing.assert_close(states[0], target.model(ids).logits)
    assert not torch.allclose(states[1], states[0]) and not torch.allclose(states[3], states[1])
    assert all(f".layers.{layer}." in f".{name}" for layer in layers for name in trained if f"layers.{layer}." in name)
    assert {int(name.split("layers.")[1].split(".")[0]) for name in trained} == set(layers)
    assert bool(changed) == (how == "full")
    assert all(torch.equal(parameter, weights[name]) for name, parameter in target.model.named_parameters())


def test_data_is_told_apart_by_whom_it_mentions(world, documents):
    subject = documents["entity_ids"].iloc[0][0]
    others = documents["entity_ids"].map(lambda owners: subject not in owners)

    kinds = {
        kind: select_documents(documents, kind, {subject}, world)
        for kind in ("edited_subjects", "related", "unrelated")
    }

    assert kinds["edited_subjects"] == documents["input_ids"][~others].tolist()
    assert kinds["unrelated"] == documents["input_ids"].tail(1).tolist()
    assert sum(map(len, kinds.values())) == 13
    with pytest.raises(EditError, match="no documents for fine-tuning on `unrelated`"):
        select_documents(documents.head(12), "unrelated", {subject}, world)


def test_controls_are_known_facts_of_nearest_margin(monkeypatch):
    edits = pd.DataFrame({"prompt": ["a", "b"], "target": ["x", "y"], "fact_id": ["p.r", "q.r"]})
    others = pd.DataFrame({"prompt": list("cdef"), "target": list("xxxx"), "fact_id": ["s.r", "t.r", "u.r", "v.r"]})
    led = {"a": 0.1, "b": 1.0, "c": 0.9, "d": 0.12, "e": -0.1, "f": 5.0}
    monkeypatch.setattr(
        "factlife.editing.survival.margins",
        lambda model, tokenizer, probes, batch_tokens: probes["prompt"].map(led).to_numpy(float),
    )

    assert _match_controls(None, None, edits, others, 0)["prompt"].tolist() == ["d", "c"]


def test_a_margin_is_the_least_lead_of_a_values_tokens(target, world):
    probes = probes_from_world(requests_from_world(world, EditRequests(count=12)), world)
    asked = probes[probes["metric"] == "recall"].reset_index(drop=True)
    assert (asked["target"].str.count(" ") > 0).any()

    found = margins(target.model, target.tokenizer, asked, batch_tokens=64)

    right = evaluate_probes(target.model, target.tokenizer, asked)["argmax"].to_numpy(bool)
    assert ((found > 0) == right).all()
    for number in (0, 7, 20):
        ids = target.tokenizer(asked["prompt"][number])["input_ids"]
        whole = target.tokenizer(f"{asked['prompt'][number]} {asked['target'][number]}")["input_ids"]
        with torch.no_grad():
            logits = target.model(torch.tensor([whole])).logits[0]
        leads = []
        for place in range(len(ids), len(whole)):
            here = logits[place - 1].tolist()
            own = here.pop(whole[place])
            leads.append(own - max(here))
        assert found[number] == pytest.approx(min(leads), abs=1e-4)


def test_what_is_taught_again_comes_back(target, world, documents):
    probes = probes_from_world(requests_from_world(world, EditRequests(count=4)), world)
    edits = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    settings = SETTINGS.model_copy(update={"relearning_steps": [1, 60]})
    ((_, tuned),) = [
        found
        for found in finetune(target.model, target.tokenizer, [[1, 2, 3]], settings, "full", [0, 1, 2])
        if found[0] == 3
    ]

    led = {step: margins(model, target.tokenizer, edits) for step, model in relearn(
        tuned, target.tokenizer, edits, settings, "full"
    )}  # fmt: skip

    assert sorted(led) == [0, 1, 60]
    assert (led[60] > 0).all() and (led[60] > led[0]).all() and led[1].mean() > led[0].mean()


def test_groups_are_asked_at_every_step_and_begin_as_they_are(target, world, documents):
    probes = probes_from_world(requests_from_world(world, EditRequests(count=4)), world)
    settings = SETTINGS.model_copy(update={"data": ["unrelated"], "trained_layers": ["all", "edited", "unedited"]})
    name = target.weight_name(1)

    table = finetune_and_evaluate(
        target.model, target.tokenizer, {name: torch.zeros_like(dict(target.model.named_parameters())[name])},
        probes, documents, settings, world=world,
    )  # fmt: skip

    again = table[table["relearning_step"] > 0]
    assert set(again["group"]) == {"retaught", "not_retaught", "unedited_taught", "unedited_not_taught"}
    assert set(again["relearning_step"]) == {1, 2, 4, 8} and set(again["step"]) == {3}
    wrong = {name: set(rows["fact_id"]) for name, rows in again[again["trained_layers"] == "all"].groupby("group")}
    assert wrong["retaught"] == wrong["unedited_taught"] and not wrong["unedited_taught"] & wrong["unedited_not_taught"]
    end = table[(table["group"] == "edits") & (table["step"] == 3) & (table["trained_layers"] == "all")]
    assert wrong["unedited_taught"] | wrong["unedited_not_taught"] == set(
        end.loc[~end["correct"].astype(bool), "fact_id"]
    )
    table = table[~table["group"].isin(set(again["group"]))]
    assert set(table["step"]) == {0, 1, 3} and set(table["trained_layers"]) == {"all", "edited", "unedited"}
    edits, unedited = (table[table["group"] == group] for group in ("edits", "unedited"))
    assert set(edits["fact_id"]) == set(unedited["fact_id"]) and edits["fact_id"].nunique() == 4
    # A change of nothing: what is reverted in the one is right in the other, at every step.
    keys = ["trained_layers", "step", "fact_id"]
    assert edits["update_cosine"].isna().all()
    both = edits.merge(unedited, on=keys, suffixes=("", "_unedited"))
    assert len(both) == len(edits) and (both["reverted"].astype(bool) == both["correct_unedited"].astype(bool)).all()


def test_retention_and_flips_are_counted_from_the_beginning():
    began, now = [True, True, True, False], [True, False, True, True]
    rows = [
        {
            "step": step,
            "relearning_step": 0,
            "fact_id": f"{fact}.r",
            "correct": correct,
            "reverted": step == 5 and not correct,
        }
        for step, answers in ((0, began), (5, now))
        for fact, correct in zip("abcd", answers, strict=True)
    ]
    keys = {"model": "m", "seed": 0, "editor": "e", "finetuning": "lora", "data": "related", "trained_layers": "all"}

    table = summarise_survival(
        pd.DataFrame(rows).assign(**keys, group="edits", update_cosine=[float("nan")] * 4 + [-0.25] * 4), resamples=20
    )

    assert table.columns[: len(SURVIVAL_KEYS) + 1].tolist() == [*SURVIVAL_KEYS, "metric"]
    found = table[table["step"] == 5].set_index("metric")
    assert found.loc["retention", ["n", "estimate"]].tolist() == [3, pytest.approx(2 / 3)]
    assert found.loc["flip_rate", "estimate"] == pytest.approx(1 / 3)
    assert found.loc["gain_rate", ["n", "estimate"]].tolist() == [1, 1.0]
    assert found.loc["reverted", "estimate"] == 0.25
    assert found.loc["update_cosine", ["n", "estimate"]].tolist() == [1, -0.25]
    before = table[table["step"] == 0].set_index("metric")
    assert before.loc["retention", "estimate"] == 1.0 and "update_cosine" not in before.index


@pytest.mark.parametrize("how", ["full", "lora", "dora"])
def test_the_cosine_is_of_what_the_edited_weights_became(target, documents, how):
    names = [target.weight_name(layer) for layer in (1, 2)]
    *_, (_, tuned) = finetune(target.model, target.tokenizer, documents["input_ids"].tolist(), SETTINGS, how, [0, 1])
    merged, change = copy.deepcopy(tuned), {}
    for part in merged.modules():
        if isinstance(part, LoraLayer):
            part.merge()
    before, after = dict(target.model.named_parameters()), dict(merged.named_parameters())
    for name in names:
        now = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        change[name] = (now - before[name]).detach()
    assert change[names[0]].any() and not change[names[1]].any()
    other = {name: torch.ones_like(one) for name, one in change.items()}

    assert update_cosine(target.model, tuned, change) == pytest.approx(1, abs=1e-6)
    assert update_cosine(target.model, tuned, {name: -2 * one for name, one in change.items()}) == pytest.approx(
        -1, abs=1e-6
    )
    one = change[names[0]].double()
    expected = one.sum().item() / (one.norm().item() * (2 * one.numel()) ** 0.5)
    assert update_cosine(target.model, tuned, other) == pytest.approx(expected, rel=1e-5)
    assert math.isnan(update_cosine(target.model, target.model, other))


def test_what_is_taught_again_counts_from_before_that():
    rows = [
        {"step": 5, "relearning_step": again, "fact_id": f"{fact}.r", "correct": correct, "reverted": pd.NA}
        for again, answers in ((0, [False, False]), (2, [True, False]))
        for fact, correct in zip("ab", answers, strict=True)
    ]
    keys = {"model": "m", "seed": 0, "editor": "e", "finetuning": "lora", "data": "related", "trained_layers": "all"}

    table = summarise_survival(
        pd.DataFrame(rows).assign(**keys, group="retaught", update_cosine=float("nan")), resamples=20
    )

    found = table[table["relearning_step"] == 2].set_index("metric")
    assert found.loc["gain_rate", ["n", "estimate"]].tolist() == [2, 0.5] and "retention" not in found.index
