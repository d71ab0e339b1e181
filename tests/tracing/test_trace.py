import numpy as np
import pandas as pd
import pytest
import torch

from factlife.config.tracing import Tracing
from factlife.recall.score import score_probes
from factlife.tracing.patching import embed_tokens
from factlife.tracing.prompts import make_prompt_pairs
from factlife.tracing.trace import COLUMNS, corrupt_inputs, trace_facts

BATCH_TOKENS = 16_384
SETTINGS = {"components": ["residual", "mlp"], "windows": [1], "noise_samples": 3}


@pytest.fixture(scope="module")
def table(small_model, small_tokenizer, small_world):
    return trace_facts(small_model, small_tokenizer, small_world, Tracing(**SETTINGS), batch_tokens=BATCH_TOKENS)


def test_every_panel_fact_is_traced_at_every_token_and_layer(table, small_world):
    assert list(table.columns) == COLUMNS
    assert set(table["fact_id"]) == set(small_world.facts.loc[small_world.facts["panel"], "fact_id"])
    one = table[(table["fact_id"] == table["fact_id"].iloc[0]) & (table["corruption"] == "noise")]
    tokens = one[["position", "token"]].drop_duplicates()
    assert len(one) == len(tokens) * 3 * 2
    assert not one.duplicated(["component", "position", "layer"]).any()
    assert table["exclusion_reason"].isna().all()


def test_the_last_token_of_the_last_layer_restores_everything(table):
    rows = table[(table["component"] == "residual") & (table["token_role"] == "last") & (table["layer"] == 2)]

    np.testing.assert_allclose(
        rows["indirect_effect"], rows["clean_probability"] - rows["corrupted_probability"], atol=1e-5
    )
    np.testing.assert_allclose(
        rows["indirect_effect_logit_diff"], rows["clean_logit_diff"] - rows["corrupted_logit_diff"], atol=1e-4
    )


def test_the_clean_run_is_what_the_probe_engine_measures(table, small_model, small_tokenizer, small_world):
    rows = table.drop_duplicates("fact_id").set_index("probe_id")
    assert (rows["n_target_tokens"] == 1).all()
    probes = small_world.probes[small_world.probes["probe_id"].isin(rows.index)].reset_index(drop=True)

    scores = score_probes(small_model, small_tokenizer, probes)

    rows = rows.loc[probes["probe_id"]]
    np.testing.assert_allclose(rows["clean_probability"], np.exp(-scores["loss_nats"].astype(float)), rtol=1e-4)
    assert rows["known"].tolist() == scores["first_token_correct"].tolist()


def test_the_batch_changes_nothing(table, small_model, small_tokenizer, small_world):
    other = trace_facts(small_model, small_tokenizer, small_world, Tracing(**SETTINGS), batch_tokens=50)

    pd.testing.assert_frame_equal(table, other, rtol=1e-3, atol=1e-4)


def test_fewer_facts_take_the_known_ones_first_and_relations_in_turn(table, small_model, small_tokenizer, small_world):
    settings = Tracing(**SETTINGS, facts=4)
    few = trace_facts(small_model, small_tokenizer, small_world, settings, batch_tokens=BATCH_TOKENS).drop_duplicates(
        "fact_id"
    )

    assert len(few) == 4
    known = table.drop_duplicates("fact_id")["known"].sum()
    assert few["known"].sum() == min(4, known)
    if known == 0:
        assert sorted(few["relation"]) == ["employer", "employer", "major", "major"]


def test_noise_is_of_the_size_that_is_asked_for_and_on_the_subject_alone(small_model, small_tokenizer, small_world):
    probes = small_world.probes[small_world.probes["kind"] == "forward"].head(1)
    (pair,), _ = make_prompt_pairs(small_tokenizer, small_world, probes)

    noisy = corrupt_inputs(small_model, [pair], "noise", Tracing(noise_level=2.0, noise_samples=500))

    noise = noisy - embed_tokens(small_model, torch.tensor([pair.ids]))
    scale = small_model.get_input_embeddings().weight.std().item()
    assert noise[:, list(pair.subject)].std().item() == pytest.approx(2 * scale, rel=0.02)
    rest = [place for place in range(len(pair.ids)) if place not in pair.subject]
    assert (noise[:, rest] == 0).all()


def test_a_fact_that_cannot_be_traced_says_why(small_model, small_tokenizer, small_world):
    facts = small_world.facts.copy()
    facts.loc[facts["relation"] == "major", "seen"] = False
    lone = type(small_world)(small_world.entities, facts, small_world.probes)

    table = trace_facts(small_model, small_tokenizer, lone, Tracing(**SETTINGS), batch_tokens=BATCH_TOKENS)

    left_out = table[table["relation"] == "major"]
    assert len(left_out) == 6
    assert left_out["exclusion_reason"].str.startswith("no other subject has a name of 2 tokens").all()
    assert table.loc[table["relation"] == "employer", "exclusion_reason"].isna().all()
