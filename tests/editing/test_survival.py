"""Fine-tuning after edits: what is trained, what is compared, and small exact cases of the table."""

import pandas as pd
import pytest
import torch

from factlife.config.editing import Requests, Survival
from factlife.editing import summarise_survival
from factlife.editing.requests import EditError, from_world, probes_of_world
from factlife.editing.summary import SURVIVAL_KEYS
from factlife.editing.survival import _matched, fine_tune, select, survive

SETTINGS = Survival(editors=["memit"], steps=[1, 3], batch_size=2, rank=2, rate=0.01, full_rate=0.01)


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
    for step, tuned in fine_tune(
        target.model, target.tokenizer, documents["input_ids"].tolist(), SETTINGS, how, layers
    ):
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

    kinds = {kind: select(documents, kind, {subject}, world) for kind in ("mentioning", "related", "unrelated")}

    assert kinds["mentioning"] == documents["input_ids"][~others].tolist()
    assert kinds["unrelated"] == documents["input_ids"].tail(1).tolist()
    assert sum(map(len, kinds.values())) == 13
    with pytest.raises(EditError, match="no documents for fine-tuning on `unrelated`"):
        select(documents.head(12), "unrelated", {subject}, world)


def test_controls_are_known_facts_of_nearest_loss(monkeypatch):
    edits = pd.DataFrame({"prompt": ["a", "b"], "wanted": ["x", "y"], "about": ["p.r", "q.r"]})
    others = pd.DataFrame({"prompt": list("cdef"), "wanted": list("xxxx"), "about": ["s.r", "t.r", "u.r", "v.r"]})
    losses = {"a": 1.0, "b": 0.1, "c": 0.9, "d": 0.12, "e": 1.01, "f": 5.0}
    known = {"e": False}

    def ask(model, tokenizer, probes, batch_tokens):
        prompts = probes["prompt"]
        return pd.DataFrame(
            {"loss_nats": prompts.map(losses), "exact_match": prompts.map(lambda prompt: known.get(prompt, True))}
        )

    monkeypatch.setattr("factlife.editing.survival._ask", ask)

    assert _matched(None, None, edits, others, 0)["prompt"].tolist() == ["c", "d"]


def test_groups_are_asked_at_every_step_and_begin_as_they_are(target, world, documents):
    probes = probes_of_world(from_world(world, Requests(count=4)), world)
    settings = SETTINGS.model_copy(update={"data": ["unrelated"], "trained_layers": ["all", "edited", "others"]})
    name = target.weight_name(1)

    table = survive(
        target.model, target.tokenizer, {name: torch.zeros_like(dict(target.model.named_parameters())[name])},
        probes, documents, settings, world=world,
    )  # fmt: skip

    assert set(table["step"]) == {0, 1, 3} and set(table["trained_layers"]) == {"all", "edited", "others"}
    edits, unedited = (table[table["group"] == group] for group in ("edits", "unedited"))
    assert set(edits["fact_id"]) == set(unedited["fact_id"]) and edits["fact_id"].nunique() == 4
    # A change of nothing: what is reverted in the one is right in the other, at every step.
    keys = ["trained_layers", "step", "fact_id"]
    both = edits.merge(unedited, on=keys, suffixes=("", "_unedited"))
    assert len(both) == len(edits) and (both["reverted"].astype(bool) == both["correct_unedited"].astype(bool)).all()


def test_retention_and_flips_are_counted_from_the_beginning():
    began, now = [True, True, True, False], [True, False, True, True]
    rows = [
        {"step": step, "fact_id": f"{fact}.r", "correct": correct, "reverted": step == 5 and not correct}
        for step, answers in ((0, began), (5, now))
        for fact, correct in zip("abcd", answers, strict=True)
    ]
    keys = {"model": "m", "seed": 0, "editor": "e", "finetuning": "lora", "data": "related", "trained_layers": "all"}

    table = summarise_survival(pd.DataFrame(rows).assign(**keys, group="edits"), resamples=20)

    assert table.columns[: len(SURVIVAL_KEYS) + 1].tolist() == [*SURVIVAL_KEYS, "metric"]
    found = table[table["step"] == 5].set_index("metric")
    assert found.loc["retention", ["n", "estimate"]].tolist() == [3, pytest.approx(2 / 3)]
    assert found.loc["flip_rate", "estimate"] == pytest.approx(1 / 3)
    assert found.loc["gain_rate", ["n", "estimate"]].tolist() == [1, 1.0]
    assert found.loc["reverted", "estimate"] == 0.25
    assert table[table["step"] == 0].set_index("metric").loc["retention", "estimate"] == 1.0
