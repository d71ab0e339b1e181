from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from factlife.circuits.edges import CircuitError
from factlife.circuits.find import find, known_pairs, split
from factlife.config.circuits import Circuits
from factlife.models import save

SETTINGS = Circuits(pairs=6, held_out=4, random=4, minimality=3, bootstrap=4, resamples=20, budget=0.3)


@pytest.fixture(scope="module")
def found(small_model, small_tokenizer, small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save(small_model, small_tokenizer, folder)
    return find(small_model, small_tokenizer, small_world, [(0, folder), (5, folder)], SETTINGS)


def test_discovery_and_validation_share_no_subject(small_model, small_tokenizer, small_world):
    one, other = split(small_model, small_tokenizer, small_world, "major", SETTINGS)

    subjects = [{pair.fact_id.split(".")[0] for pair in half} for half in (one, other)]
    assert len(one) == 6 and len(other) == 4
    assert not subjects[0] & subjects[1]


def test_every_measure_is_in_the_table(found):
    held = found.table[(found.table["on"] == "held_out") & (found.table["control"] == "")]
    asked = set(held["metric"])

    assert asked >= {
        "faithfulness", "completeness", "minimality", "cpr", "cmd", "random_percentile", "stability", "hit_at_1",
        "integration_gap", "edge_entropy", "random_best", "random_connected_best",
    }  # fmt: skip
    assert {"random_weights", "shuffled_labels"} <= set(found.table["control"])
    assert {"paraphrase", "question"} <= set(found.table["on"])
    whole = held[(held["metric"] == "faithfulness") & (held["budget"] == 1)]["estimate"]
    assert whole.tolist() == pytest.approx([1.0])
    assert not found.table.duplicated(["relation", "method", "budget", "metric", "on", "control", "step"]).any()


def test_the_same_model_at_two_checkpoints_has_the_same_circuit(found):
    overlap = found.table[found.table["metric"] == "overlap_with_final"]

    assert overlap["step"].tolist() == [0, 5]
    assert overlap["estimate"].tolist() == [1.0, 1.0]


def test_the_circuit_keeps_to_its_budget(found):
    circuit = found.circuits["major", "eap_ig"]
    chosen = sum(edge["in_graph"] for edge in circuit["edges"].values())

    assert 0 < chosen <= 0.3 * len(circuit["edges"]) + 1
    assert chosen == found.table.loc[found.table["metric"] == "edges", "estimate"].item()


def test_heads_and_hypotheses_come_with_circuits(found):
    assert set(found.heads["head"]) == {"a0.h0", "a0.h1", "a1.h0", "a1.h1"}
    assert set(found.hypotheses["kind"]) == {"automatic"}


def test_methods_are_compared(small_model, small_tokenizer, small_world):
    settings = SETTINGS.model_copy(update={"methods": ["eap_ig", "exact", "denoising"], "nodes": True})

    table = find(small_model, small_tokenizer, small_world, [], settings).table

    pearson = table[table["metric"] == "pearson"].set_index(["method", "on"])["estimate"]
    assert len(pearson) == 6 and pearson.between(-1, 1).all()
    assert pearson["eap_ig", "exact"] == pytest.approx(pearson["exact", "eap_ig"])
    # Four heads and two MLPs; a circuit of a share of .3 has two.
    assert table[table["metric"] == "edges"]["estimate"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("nodes", [False, True], ids=["edges", "nodes"])
def test_a_known_circuit_that_is_the_same_agrees_wholly(found, small_model, small_tokenizer, small_world, nodes):
    settings = SETTINGS.model_copy(update={"nodes": nodes})
    whole = found if not nodes else find(small_model, small_tokenizer, small_world, [], settings)
    file = whole.circuits["major", "eap_ig"]

    table = find(small_model, small_tokenizer, small_world, [], settings, known={"major": file}).table

    known = table[table["control"] == "known"].set_index("metric")
    kinds = ["node"] if nodes else ["edge", "node"]
    for kind in kinds:
        assert known.loc[[f"{kind}_precision", f"{kind}_recall", f"{kind}_jaccard"], "estimate"].tolist() == [1, 1, 1]
    assert known.loc[f"{kinds[0]}_chance", "estimate"] < 0.4 and known.loc[f"{kinds[0]}_p", "estimate"] < 0.1
    ours = table[(table["metric"] == "faithfulness") & (table["on"] == "held_out") & (table["control"] == "")]
    own = ours.loc[ours["budget"] == settings.budget, "estimate"].item()
    assert known.loc["faithfulness", "estimate"] == pytest.approx(own)


def test_a_circuit_and_the_model_without_half_of_it_are_compared(found):
    row = found.table[found.table["metric"] == "incompleteness"].iloc[0]

    assert row["estimate"] > 0
    assert row["ci_low"] - 1e-9 <= row["estimate"] <= row["ci_high"] + 1e-9


def test_it_is_the_same_again(found, small_model, small_tokenizer, small_world):
    again = find(small_model, small_tokenizer, small_world, [], SETTINGS)

    pd.testing.assert_frame_equal(
        again.table, found.table[found.table["step"].isna()].reset_index(drop=True), check_dtype=False
    )


@pytest.mark.parametrize("right", [0, 1, 2])
def test_a_model_that_answers_too_little_is_asked_about_everything(small_model, small_tokenizer, small_world, right):
    facts = set(small_world.facts[small_world.facts["relation"] == "major"]["fact_id"])
    ask = (small_tokenizer, small_world, "major", "forward", SETTINGS, facts)
    everything = known_pairs(small_model, *ask)
    wanted = {pair.ids: pair.answer for pair in everything[:right]}

    def answering(ids, **_):
        logits = torch.zeros(len(ids), 1, small_model.config.vocab_size)
        for row, prompt in enumerate(ids.tolist()):
            logits[row, 0, wanted.get(tuple(prompt), 0)] = 1
        return SimpleNamespace(logits=logits)

    answering.device = small_model.device
    pairs = known_pairs(answering, *ask)

    assert pairs == (everything if right < 2 else everything[:right])


@pytest.mark.parametrize(
    ("relation", "message"),
    [("birth_date", "has 2 tokens; circuits explain one token"), ("height", "no relation `height`; it has")],
)
def test_relations_that_cannot_be_explained_are_errors(small_model, small_tokenizer, small_world, relation, message):
    with pytest.raises(CircuitError, match=message):
        find(small_model, small_tokenizer, small_world, [], SETTINGS.model_copy(update={"relations": [relation]}))
