import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import tiny_models
from factlife.circuits.attribution import denoising_patching, eap, eap_ig, evaluate_circuits, exact_patching
from factlife.circuits.edges import CircuitError, EdgeModel, logit_difference
from factlife.circuits.nodes import NodeModel
from factlife.circuits.selection import export_circuit, select_circuit
from factlife.circuits.validation import sample_random_circuits
from factlife.models.anatomy import get_anatomy, patch


@pytest.fixture(scope="module")
def post_normed():
    """A small Gemma 2, whose attention and MLPs write through norms, and pairs of prompts."""
    torch.manual_seed(0)
    config = Gemma2Config(**tiny_models.GROUPED, head_dim=16, query_pre_attn_scalar=16, sliding_window=8)
    model = Gemma2ForCausalLM(config).eval()
    return model, tiny_models.pairs_for(model)


def outcome(model, inputs, answers):
    with torch.no_grad():
        return logit_difference(model(inputs_embeds=inputs).logits[:, -1], answers)


def test_a_model_without_edges_says_what_to_set(post_normed):
    with pytest.raises(CircuitError, match=r"write through norms; set circuits\.level: node"):
        EdgeModel(post_normed[0])


@pytest.mark.parametrize("name", ["gemma2", *tiny_models.MODELS])
def test_all_nodes_kept_is_the_clean_run_and_none_the_corrupted_one(name, post_normed):
    model = post_normed[0] if name == "gemma2" else tiny_models.tiny(name)
    batch, nodes = tiny_models.pairs_for(model), NodeModel(model)
    full = nodes.graph.edges.float()

    whole, empty = evaluate_circuits(nodes, batch, torch.stack([full, 0 * full]))[..., 0]

    torch.testing.assert_close(whole, outcome(model, batch.clean, batch.answers), atol=1e-4, rtol=1e-4)
    # Attention and MLPs see nothing of the clean run, and the last token is the same in both.
    torch.testing.assert_close(empty, outcome(model, batch.corrupted, batch.answers), atol=1e-4, rtol=1e-4)


def test_one_node_at_a_time_by_hooks(post_normed):
    """Noising: the clean run with one head or MLP of the corrupted run; denoising: the other way round."""
    model, batch = post_normed
    nodes, parts = NodeModel(model), get_anatomy(model)
    base, clean = nodes.record(batch.corrupted), nodes.record(batch.clean)
    lost, gained = exact_patching(nodes, [batch]).scores, denoising_patching(nodes, [batch]).scores

    def put(state, head):
        def write(own):
            own = own.clone()
            own[..., head] = state[..., head]
            return own

        return write

    block, width = parts.blocks[1], parts.head_dim
    for name, module, number, head, inputs in (
        ("a1.h2", block.attention_out, 3, slice(2 * width, 3 * width), True),
        ("m1", block.mlp_post_norm, 4, slice(None), False),
    ):
        row = nodes.graph.writers.index(name)
        whole, empty = (outcome(model, each, batch.answers) for each in (batch.clean, batch.corrupted))
        with patch(module, put(base.writes[number], head), inputs=inputs):
            expected = whole - outcome(model, batch.clean, batch.answers)
        torch.testing.assert_close(lost[:, row, 0], expected, atol=1e-5, rtol=1e-3)
        with patch(module, put(clean.writes[number], head), inputs=inputs):
            expected = outcome(model, batch.corrupted, batch.answers) - empty
        torch.testing.assert_close(gained[:, row, 0], expected, atol=1e-5, rtol=1e-3)
    assert lost.abs().max() > 1e-3 and (lost - gained).abs().max() > 1e-5


def test_attribution_patching_is_the_slope_of_a_small_replacement(post_normed):
    model, batch = post_normed
    nodes = NodeModel(model)
    scores, base = eap(nodes, [batch]).scores, nodes.record(batch.corrupted)
    full, step = nodes.graph.edges.float(), 1e-2
    for row in (2, 5, 8):
        more, less = full.clone(), full.clone()
        more[row] += step
        less[row] -= step
        with torch.no_grad():
            logits = nodes.run(batch.clean, base, torch.stack([more, less]))[0]
        slope = (logit_difference(logits[0], batch.answers) - logit_difference(logits[1], batch.answers)) / (2 * step)
        torch.testing.assert_close(scores[:, row, 0], slope, atol=1e-3, rtol=1e-2)


def test_integrated_gradients_of_the_input_account_for_the_whole_change(post_normed):
    model, batch = post_normed

    found = eap_ig(NodeModel(model), [batch], gap=0.02)

    assert found.gap_90 <= 0.02
    assert found.scores[:, 0].abs().max() == 0  # the embedding is never taken out


def test_circuits_of_nodes_keep_to_their_budget_and_kinds(post_normed):
    model, batch = post_normed
    nodes = NodeModel(model)
    scores = exact_patching(nodes, [batch]).scores.mean(0)

    circuit = select_circuit(nodes.graph, scores, 4)

    assert set(circuit[:, 0].nonzero()[:, 0].tolist()) == set(scores[:, 0].abs().argsort(descending=True)[:4].tolist())
    heads = np.array([name.startswith("a") for name in nodes.graph.writers])
    for drawn in sample_random_circuits(nodes.graph, circuit, 5, 0):
        assert drawn.sum() == 4 and drawn[heads].sum() == circuit[heads].sum()
    written = export_circuit(nodes.graph, scores, circuit, d_model=32, parallel=False)
    assert written["edges"] == {} and len(written["nodes"]) == 2 + 2 * 5
    assert sum(node["in_graph"] for node in written["nodes"].values()) == 4 + 2
