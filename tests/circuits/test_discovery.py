from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from factlife.circuits.discovery import discover_circuits, select_answered_pairs, split_pairs
from factlife.circuits.edges import CircuitError
from factlife.config.circuits import CircuitDiscovery
from factlife.models import save_model

SETTINGS = CircuitDiscovery(
    relations=["major"], discovery_prompts=6, validation_prompts=4, random_circuits=4, minimality_edges=3,
    stability_resamples=4, fraction=0.3, resamples=20, batch_tokens=4096,
)  # fmt: skip


@pytest.fixture(scope="module")
def found(small_model, small_tokenizer, small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(small_model, small_tokenizer, folder)
    return discover_circuits(small_model, small_tokenizer, small_world, [(0, folder), (5, folder)], SETTINGS)


def test_discovery_and_validation_share_no_subject(small_model, small_tokenizer, small_world):
    one, other = split_pairs(small_model, small_tokenizer, small_world, "major", SETTINGS)

    subjects = [{pair.fact_id.split(".")[0] for pair in half} for half in (one, other)]
    assert len(one) == 6 and len(other) == 4
    assert not subjects[0] & subjects[1]


def test_every_measure_is_in_the_table(found):
    held = found.table[(found.table["evaluated_on"] == "validation") & (found.table["control"] == "")]
    asked = set(held["metric"])

    assert asked >= {
        "faithfulness", "complement_faithfulness", "minimality", "cpr", "cmd", "random_percentile", "stability", "hit_at_1",
        "integration_gap", "edge_entropy", "random_best", "random_connected_best",
    }  # fmt: skip
    assert {"random_weights", "shuffled_answers"} <= set(found.table["control"])
    assert {"paraphrase", "question"} <= set(found.table["evaluated_on"])
    whole = held[(held["metric"] == "faithfulness") & (held["fraction"] == 1)]["estimate"]
    assert whole.tolist() == pytest.approx([1.0])
    assert not found.table.duplicated(
        ["relation", "method", "fraction", "metric", "evaluated_on", "control", "step"]
    ).any()


def test_the_same_model_at_two_checkpoints_has_the_same_circuit(found):
    overlap = found.table[found.table["metric"] == "jaccard_with_final"]

    assert overlap["step"].tolist() == [0, 5]
    assert overlap["estimate"].tolist() == [1.0, 1.0]


def test_the_circuit_keeps_to_its_budget(found):
    circuit = found.circuits["major", "EAP-IG-inputs"]
    chosen = sum(edge["in_graph"] for edge in circuit["edges"].values())

    assert 0 < chosen <= 0.3 * len(circuit["edges"]) + 1
    assert chosen == found.table.loc[found.table["metric"] == "n_edges", "estimate"].item()


def test_heads_and_hypotheses_come_with_circuits(found):
    assert set(found.heads["head"]) == {"a0.h0", "a0.h1", "a1.h0", "a1.h1"}
    assert set(found.hypotheses["kind"]) == {"exploratory"}


def test_methods_are_compared(small_model, small_tokenizer, small_world):
    settings = SETTINGS.model_copy(update={"methods": ["EAP-IG-inputs", "exact", "denoising"], "level": "node"})

    table = discover_circuits(small_model, small_tokenizer, small_world, [], settings).table

    pearson = table[table["metric"] == "pearson"].set_index(["method", "evaluated_on"])["estimate"]
    assert len(pearson) == 6 and pearson.between(-1, 1).all()
    assert pearson["EAP-IG-inputs", "exact"] == pytest.approx(pearson["exact", "EAP-IG-inputs"])
    # Four heads and two MLPs; a circuit of a share of .3 has two.
    assert table[table["metric"] == "n_edges"]["estimate"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("level", ["edge", "node"])
def test_a_known_circuit_that_is_the_same_agrees_wholly(found, small_model, small_tokenizer, small_world, level):
    settings = SETTINGS.model_copy(update={"level": level})
    whole = found if level == "edge" else discover_circuits(small_model, small_tokenizer, small_world, [], settings)
    file = whole.circuits["major", "EAP-IG-inputs"]

    table = discover_circuits(
        small_model, small_tokenizer, small_world, [], settings, known_circuits={"major": file}
    ).table

    known = table[table["control"] == "known"].set_index("metric")
    kinds = ["node"] if level == "node" else ["edge", "node"]
    for kind in kinds:
        assert known.loc[[f"{kind}_precision", f"{kind}_recall", f"{kind}_jaccard"], "estimate"].tolist() == [1, 1, 1]
    assert known.loc[f"{kinds[0]}_chance_precision", "estimate"] < 0.4 and known.loc[f"{kinds[0]}_p", "estimate"] < 0.1
    ours = table[
        (table["metric"] == "faithfulness") & (table["evaluated_on"] == "validation") & (table["control"] == "")
    ]
    own = ours.loc[ours["fraction"] == settings.fraction, "estimate"].item()
    assert known.loc["faithfulness", "estimate"] == pytest.approx(own)


def test_a_circuit_and_the_model_without_half_of_it_are_compared(found):
    row = found.table[found.table["metric"] == "incompleteness"].iloc[0]

    assert row["estimate"] > 0
    assert row["ci_low"] - 1e-9 <= row["estimate"] <= row["ci_high"] + 1e-9


def test_it_is_the_same_again(found, small_model, small_tokenizer, small_world):
    again = discover_circuits(small_model, small_tokenizer, small_world, [], SETTINGS)

    pd.testing.assert_frame_equal(
        again.table, found.table[found.table["step"].isna()].reset_index(drop=True), check_dtype=False
    )


@pytest.mark.parametrize("right", [0, 1, 2])
def test_a_model_that_answers_too_little_is_asked_about_everything(small_model, small_tokenizer, small_world, right):
    facts = set(small_world.facts[small_world.facts["relation"] == "major"]["fact_id"])
    ask = (small_tokenizer, small_world, "major", "forward", SETTINGS, facts)
    everything = select_answered_pairs(small_model, *ask)
    wanted = {pair.ids: pair.answer for pair in everything[:right]}

    def answering(ids, **_):
        logits = torch.zeros(len(ids), 1, small_model.config.vocab_size)
        for row, prompt in enumerate(ids.tolist()):
            logits[row, 0, wanted.get(tuple(prompt), 0)] = 1
        return SimpleNamespace(logits=logits)

    answering.device = small_model.device
    pairs = select_answered_pairs(answering, *ask)

    assert pairs == (everything if right < 2 else everything[:right])


@pytest.mark.parametrize(
    ("relation", "message"),
    [("birth_date", "has 2 tokens; circuits explain one token"), ("height", "no relation `height`; it has")],
)
def test_relations_that_cannot_be_explained_are_errors(small_model, small_tokenizer, small_world, relation, message):
    with pytest.raises(CircuitError, match=message):
        discover_circuits(
            small_model, small_tokenizer, small_world, [], SETTINGS.model_copy(update={"relations": [relation]})
        )
