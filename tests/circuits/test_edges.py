"""Cutting edges: nothing cut is the model, everything cut is the corrupted run, and in between is what one expects."""

import pytest
import torch
import transformers

import tiny_models
from factlife.circuits.attribution import evaluate_circuits
from factlife.circuits.edges import CircuitError, EdgeModel, build_computation_graph, logit_difference


def test_no_edge_cut_is_the_model_and_all_cut_the_corrupted_run(family):
    model = tiny_models.tiny(family)
    batch, edges = tiny_models.pairs_for(model), EdgeModel(model)
    full = edges.graph.edges.float()

    with torch.no_grad():
        base = edges.record(batch.corrupted)
        both, _ = edges.run(batch.clean, base, torch.stack([full, torch.zeros_like(full)]))
        for logits, inputs in zip(both, (batch.clean, batch.corrupted), strict=True):
            expected = model(inputs_embeds=inputs).logits[:, -1]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_what_is_written_adds_up_to_what_is_read(family):
    model = tiny_models.tiny(family)
    batch, edges = tiny_models.pairs_for(model), EdgeModel(model)

    one, other = edges.record(batch.clean), edges.record(batch.corrupted)

    # Biases of the output projections are in what is read only, and the same in both runs.
    written, read = (one.writes - other.writes).sum(0), one.reads[-1] - other.reads[-1]
    torch.testing.assert_close(written, read, rtol=1e-4, atol=1e-4)


def test_an_mlp_cut_off_everything_before_it_writes_what_it_wrote_in_the_corrupted_run():
    model = tiny_models.tiny("llama-grouped")
    batch, edges = tiny_models.pairs_for(model), EdgeModel(model)
    mask = edges.graph.edges.float()
    mask[:, edges.graph.readers.index("m1")] = 0

    with torch.no_grad():
        base = edges.record(batch.corrupted)
        logits, _ = edges.run(batch.clean, base, mask[None])
    block = model.model.layers[1]
    place = edges.graph.writers.index("m1")
    hook = block.mlp.register_forward_hook(lambda *_: base.writes[place])
    with torch.no_grad():
        expected = model(inputs_embeds=batch.clean).logits[:, -1]
    hook.remove()

    torch.testing.assert_close(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_the_batch_changes_nothing():
    model = tiny_models.tiny("gpt_neox")
    batch, edges = tiny_models.pairs_for(model), EdgeModel(model)
    masks = (
        torch.rand(7, *edges.graph.edges.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    ) & edges.graph.edges

    together = evaluate_circuits(edges, batch, masks.float())
    single = evaluate_circuits(edges, batch, masks.float(), batch_tokens=1)

    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-4)


def test_edges_are_counted():
    small = build_computation_graph(2, 2, 1)

    assert small.writers == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
    assert small.readers == [
        "a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h0<v>", "m0", "a1.h0<q>", "a1.h1<q>", "a1.h0<k>", "a1.h0<v>", "m1", "logits",
    ]  # fmt: skip
    assert small.edges.sum(0).tolist() == [1, 1, 1, 1, 3, 4, 4, 4, 4, 6, 7]
    assert build_computation_graph(2, 2, 1, parallel=True).edges.sum(0).tolist() == [1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 7]
    # gpt2-small, as the MIB benchmark counts it.
    big = build_computation_graph(12, 12, 12)
    assert int(big.edges.sum()) == 32491 and len(big.writers) + 1 == 158


def test_shared_keys_feed_every_head_of_their_group():
    small = build_computation_graph(1, 4, 2)
    feeds = small.feeds()

    assert [small.writers[row] for row in feeds[small.readers.index("a0.h1<k>")].nonzero()[:, 0]] == ["a0.h2", "a0.h3"]
    assert [small.writers[row] for row in feeds[small.readers.index("a0.h3<q>")].nonzero()[:, 0]] == ["a0.h3"]


def test_a_model_that_writes_through_norms_has_no_edges():
    config = transformers.Gemma2Config(**tiny_models.GROUPED, head_dim=16)

    with pytest.raises(CircuitError, match=r"edges of gemma2 do not add up"):
        EdgeModel(transformers.Gemma2ForCausalLM(config))


def test_difference_is_of_the_answers_tokens():
    logits = torch.arange(12.0).view(2, 2, 3)

    assert logit_difference(logits, torch.tensor([[2, 0], [0, 1]])).tolist() == [[2, -1], [2, -1]]
