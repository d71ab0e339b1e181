import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import tiny_models
from factlife.circuits.attribution import PromptPairs, eap, eap_ig, evaluate_circuits, exact_patching
from factlife.circuits.edges import EdgeModel


@pytest.fixture(scope="module")
def planted():
    """A model in which all heads but two and one of two MLPs write nothing, and which edges that leaves."""
    model = tiny_models.tiny("llama-grouped")
    alive = {"input", "a0.h1", "a1.h2", "m0"}
    with torch.no_grad():
        for layer, block in enumerate(model.model.layers):
            for head in range(4):
                if f"a{layer}.h{head}" not in alive:
                    block.self_attn.o_proj.weight[:, head * 8 : head * 8 + 8] = 0
            if f"m{layer}" not in alive:
                block.mlp.down_proj.weight.zero_()
    edges = EdgeModel(model)
    graph = edges.graph
    writes = torch.tensor([name in alive for name in graph.writers])
    reads = graph.feeds()[:, writes].any(1)
    reads[-1] = True
    return (
        edges,
        [tiny_models.pairs_for(model, count=12, places=slice(None))],
        graph.edges & writes[:, None] & reads[None],
    )


def auroc(edges, scores, truth):
    there = edges.graph.edges
    return roc_auc_score(truth[there].numpy(), scores.abs()[there].numpy())


def test_planted_edges_are_found(planted):
    edges, batches, truth = planted
    assert 0.1 < truth.sum() / edges.graph.edges.sum() < 0.6

    assert auroc(edges, exact_patching(edges, batches).scores.mean(0), truth) == 1.0
    assert auroc(edges, eap_ig(edges, batches).scores.mean(0), truth) >= 0.95
    generator = torch.Generator().manual_seed(0)
    chance = [auroc(edges, torch.rand(truth.shape, generator=generator), truth) for _ in range(50)]
    assert np.mean(chance) == pytest.approx(0.5, abs=0.05)


def test_steps_are_raised_until_the_input_accounts_for_the_whole_change():
    model = tiny_models.tiny("gpt_neox")
    edges, batch = EdgeModel(model), tiny_models.pairs_for(model)

    found = eap_ig(edges, [batch], gap=0.02)

    assert found.gap_90 <= 0.02 and found.steps > 1
    full = edges.graph.edges.float()
    clean, corrupted = evaluate_circuits(edges, batch, torch.stack([full, 0 * full]))[..., 0]
    whole = (clean - corrupted).abs()
    np.testing.assert_array_less((found.scores[:, 0].sum(-1) - (clean - corrupted)).abs().numpy(), 0.05 * whole.numpy())


def test_a_gap_that_no_step_closes_is_told(caplog):
    model = tiny_models.tiny("gpt_neox")

    found = eap_ig(EdgeModel(model), [tiny_models.pairs_for(model)], gap=0.0, steps=(1, 2))

    assert found.steps == 2
    assert "the integration gap is" in caplog.text


def test_the_gradient_is_what_a_small_cut_does():
    """EAP against finite differences: an edge that is cut a little changes the outcome by its score times as little."""
    model = tiny_models.tiny("gpt_neox").double()
    batch = tiny_models.pairs_for(model)
    edges = EdgeModel(model)
    scores = eap(edges, [batch]).scores
    full = edges.graph.edges.double()
    where = edges.graph.edges.nonzero()[::13]
    # The score is of the clean value in place of the corrupted one, at first order, with all else from the clean run.
    masks = full.repeat(len(where), 1, 1)
    step = 1e-5
    masks[torch.arange(len(where)), where[:, 0], where[:, 1]] -= step
    with torch.no_grad():
        base = edges.record(batch.corrupted)
        lost = [edges.run(batch.clean, base, mask[None])[0][0] for mask in (full, *masks)]
    chosen = torch.stack([each.gather(1, batch.answers) for each in lost])
    change = ((chosen[0] - chosen[1:]) @ torch.tensor([1.0, -1.0], dtype=torch.float64)) / step

    expected = scores[:, where[:, 0], where[:, 1]].T.double()
    torch.testing.assert_close(change, expected, rtol=1e-2, atol=1e-3)


def test_pairs_of_other_lengths_are_scored_as_if_alone():
    model = tiny_models.tiny("gpt2")
    edges, one, other = EdgeModel(model), tiny_models.pairs_for(model), tiny_models.pairs_for(model, length=7)

    both = eap(edges, [one, other]).scores

    torch.testing.assert_close(both[:4], eap(edges, [one]).scores)
    torch.testing.assert_close(both[4:], eap(edges, [other]).scores)
    single = PromptPairs(one.clean[1:2], one.corrupted[1:2], one.answers[1:2], one.subjects[1:2])
    torch.testing.assert_close(both[1:2], eap(edges, [single]).scores, rtol=1e-3, atol=1e-4)
