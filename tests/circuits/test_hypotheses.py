import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import tiny_models
from factlife.circuits.attribution import eap_ig
from factlife.circuits.edges import CircuitError, EdgeModel, build_computation_graph
from factlife.circuits.hypotheses import (
    HypothesisPrompts,
    _ablate_feature,
    ablation_mask,
    evaluate_hypotheses,
    exploratory_hypotheses,
    load_feature,
    sign_flip_p,
    verdict,
)
from factlife.config.circuits import Hypothesis
from factlife.models.anatomy import capture, patch
from factlife.saes.dictionary import Dictionary, save_dictionary


def says(component, **other):
    return Hypothesis(claim="x", component=component, relation="r", **other)


@pytest.fixture(scope="module")
def planted():
    """A model of which the second layer writes nothing, and prompts; in the control, both runs are the same."""
    model = tiny_models.tiny("llama-grouped")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    batch = tiny_models.pairs_for(model, count=24, places=slice(None))
    control = type(batch)(batch.clean, batch.clean, batch.answers, batch.subjects)
    return EdgeModel(model), {("r", "forward"): HypothesisPrompts([batch], [control])}


def run(planted, stated, generated=None):
    edges, prompts = planted
    return evaluate_hypotheses(edges, prompts, stated, generated or {}, resamples=200, batch_tokens=4096)


def test_a_part_that_writes_nothing_is_refuted_and_its_control_is_silent(planted):
    table = run(planted, {"dead": says("m1"), "dead-heads": says("a1")}).set_index(["hypothesis", "metric"])

    for name in ("dead", "dead-heads"):
        assert table.loc[(name, "effect"), ["estimate", "ci_low", "ci_high"]].tolist() == pytest.approx(
            [0, 0, 0], abs=1e-5
        )
        assert table.loc[(name, "effect"), "verdict"] == "refuted"
        assert table.loc[(name, "sensitivity"), "estimate"] == 0
        assert table.loc[(name, "specificity"), "estimate"] == 1
        assert table.loc[(name, "control_effect"), "estimate"] == pytest.approx(0, abs=1e-5)


def test_the_effect_is_the_share_that_is_lost_without_the_part(planted):
    edges, prompts = planted
    table = run(planted, {"live": says("m0")}).set_index("metric")
    batch = prompts["r", "forward"].test[0]
    record = edges.record(batch.corrupted)
    place = edges.graph.writers.index("m0")

    # The same by a hook: the MLP returns what it returned in the corrupted run.
    def of(inputs):
        with torch.no_grad():
            logits = edges.model(inputs_embeds=inputs).logits[:, -1].gather(1, batch.answers)
        return (logits[:, 0] - logits[:, 1]).double()

    full, empty = of(batch.clean), of(batch.corrupted)
    hook = edges.model.model.layers[0].mlp.register_forward_hook(lambda *_: record.writes[place])
    cut = of(batch.clean)
    hook.remove()
    expected = ((full - cut).mean() / (full - empty).mean()).item()
    assert table.loc["effect", "estimate"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_stated_and_automatic_hypotheses_are_corrected_apart(planted):
    stated = {"one": says("a0"), "other": says("m1"), "third": says("a1.h0")}
    table = run(planted, stated, {"made": says("m0")}).drop_duplicates("hypothesis").set_index("hypothesis")

    p = table["p"]
    smallest = p[list(stated)].min()
    assert table.loc[p[list(stated)].idxmin(), "p_corrected"] == pytest.approx(min(1, 3 * smallest))
    assert table.loc["made", "p_corrected"] == p["made"]


@pytest.mark.parametrize(
    ("estimate", "low", "high", "p", "direction", "expected"),
    [
        (0.2, 0.1, 0.3, 0.01, "lowers", "supported"),
        (0.2, 0.1, 0.3, 0.20, "lowers", "inconclusive"),
        (0.05, 0.02, 0.09, 0.01, "lowers", "refuted"),
        (0.05, -0.1, 0.2, 0.3, "lowers", "inconclusive"),
        (-0.2, -0.3, -0.1, 1.0, "lowers", "refuted"),
        (-0.2, -0.3, -0.1, 0.01, "raises", "supported"),
    ],
)
def test_verdicts(estimate, low, high, p, direction, expected):
    row = {"estimate": estimate, "ci_low": low, "ci_high": high, "p_corrected": p, "direction": direction}

    assert verdict(row | {"smallest_effect": 0.1}) == expected


def test_sign_flips_by_hand():
    assert sign_flip_p(np.array([1.0, 1.0, 1.0])) == 1 / 8
    assert sign_flip_p(np.array([2.0, -1.0])) == 0.5
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p(np.ones(40)) == 1 / 10001


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=10))
def test_p_is_a_probability_and_its_other_side_its_complement(values):
    one, other = sign_flip_p(np.array(values)), sign_flip_p(-np.array(values))

    assert 0 < one <= 1 and one + other >= 1


def test_the_strongest_and_the_weakest_parts_are_asked_about(planted):
    edges, prompts = planted
    scores = eap_ig(edges, prompts["r", "forward"].test).scores.mean(0)

    made = exploratory_hypotheses(edges.graph, {"r": scores}, 2, 0.05)

    kinds = {name.split("-")[1]: set() for name in made}
    for name, hypothesis in made.items():
        kinds[name.split("-")[1]].add(hypothesis.component)
    assert all(part[1] == "1" for part in kinds["weakest"])
    assert all(part[1] == "0" for part in kinds["strongest"])
    assert exploratory_hypotheses(edges.graph, {"r": scores}, 0, 0.05) == {}


def test_a_part_that_is_not_there_is_an_error(planted):
    with pytest.raises(
        CircuitError, match=r"hypothesis `h` names `a7\.h0`, which the model does not have: it has layers 0 to 1"
    ):
        run(planted, {"h": says("a7.h0")})
    with pytest.raises(ValidationError, match="component"):
        says("feature-7")
    with pytest.raises(CircuitError, match="needs question prompts, but there are too few"):
        run(planted, {"h": says("m0", probe_kind="question")})
    with pytest.raises(CircuitError, match="hypothesis `h` is about relation `other`, which has no circuit"):
        run(planted, {"h": says("m0").model_copy(update={"relation": "other"})})


def test_knocking_out_cuts_the_edges_out_of_the_part_alone():
    small = build_computation_graph(2, 2, 2)

    cut = small.edges & ~ablation_mask(small, "a0", "h")

    assert {small.writers[row] for row in cut.nonzero()[:, 0]} == {"a0.h0", "a0.h1"}
    assert cut.sum() == small.edges[1:3].sum()


@pytest.fixture(scope="module")
def dictionary(planted, tmp_path_factory):
    """Folder of an autoencoder of the residual stream after layer 0 whose every feature is one of its coordinates."""
    edges, _ = planted
    folder, width = tmp_path_factory.mktemp("sae"), edges.parts.d_model
    one, none = torch.eye(width), torch.zeros(width)
    about = {"hook_name": "model.layers.0", "hook_name_out": "model.layers.0", "hook_reads_input": False}
    made = Dictionary(
        torch.cat([one, -one], 1), torch.zeros(2 * width), torch.cat([one, -one]), none, torch.full((2 * width,), 1e-9)
    )
    made.metadata = about
    save_dictionary(made, folder / "layer-0")
    return {"coordinates": folder}


def test_a_feature_carries_what_it_was_in_the_corrupted_run(planted, dictionary):
    """A feature and its negative are a coordinate of the residual stream: putting both in place is patching it."""
    edges, prompts = planted
    batch = prompts["r", "forward"].test[0]
    feature = load_feature(edges, says("coordinates/layer-0/5"), "h", dictionary)

    def residual(inputs):
        with torch.no_grad(), capture({0: edges.model.model.layers[0]}) as found:
            edges.model.base_model(inputs_embeds=inputs)
        return found[0][..., 5]

    clean, corrupted = residual(batch.clean), residual(batch.corrupted)

    def put(hidden):
        hidden = hidden.clone()
        hidden[..., 5] += corrupted.clamp(min=0) - clean.clamp(min=0)
        return hidden

    with torch.no_grad(), patch(edges.model.model.layers[0], put):
        logits = edges.model(inputs_embeds=batch.clean).logits[:, -1].gather(1, batch.answers)

    expected = (logits[:, 0] - logits[:, 1]).double().numpy()
    np.testing.assert_allclose(_ablate_feature(edges, feature, [batch]), expected, atol=1e-4)
    table = evaluate_hypotheses(
        edges,
        prompts,
        {"h": says("coordinates/layer-0/5")},
        {},
        resamples=50,
        batch_tokens=512,
        dictionaries=dictionary,
    )
    assert set(table["metric"]) == {"effect", "control_effect", "sensitivity", "specificity"}


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("other/layer-0/1", "names dictionary `other`; there are coordinates"),
        ("coordinates/layer-7/1", "names layer-7 of `coordinates`, which has layer-0 to layer-1"),
        ("coordinates/layer-0/64", "names feature 64 of coordinates/layer-0, which has features 0 to 63"),
    ],
)
def test_a_feature_that_is_not_there_is_an_error(planted, dictionary, component, message):
    with pytest.raises(CircuitError, match=message):
        load_feature(planted[0], says(component), "h", dictionary)


def test_a_control_may_be_another_relation(planted):
    edges, prompts = planted
    same = {**prompts, ("other", "forward"): HypothesisPrompts(prompts["r", "forward"].test, [])}

    table = run((edges, same), {"h": says("m0", control="other")}).set_index("metric")["estimate"]

    assert table["control_effect"] == pytest.approx(table["effect"])
    assert table["specificity"] == pytest.approx(1 - table["sensitivity"])


def test_no_hypothesis_gives_no_rows(planted):
    empty = run(planted, {})

    assert isinstance(empty, pd.DataFrame) and empty.empty and "verdict" in empty.columns
