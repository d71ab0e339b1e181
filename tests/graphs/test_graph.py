"""Attribution graphs are exact: rows add up, the replacement model gives the model's logits, influence sums over paths."""

import pytest
import torch

import tiny_models
from factlife.graphs import graph as graphs
from factlife.graphs import interventions
from factlife.graphs.replacement import FrozenModel
from factlife.models.anatomy import capture, patch
from factlife.saes.dictionary import Dictionary, DictionaryError

# Edges need heads that add up, graphs do not.
tiny_models.MODELS["gemma2"] = (
    "Gemma2ForCausalLM",
    tiny_models.GROUPED | {"head_dim": 16, "final_logit_softcapping": 5.0},
)


def transcoders(frozen_model, generator, d_sae=24):
    """Random ones, some of whose features are active on the prompt."""
    found = []
    for read in frozen_model.mlp_inputs:
        d = read.shape[1]
        rows = torch.nn.functional.normalize(torch.randn(d_sae, d, generator=generator), dim=-1)
        weights = {"W_enc": torch.randn(d, d_sae, generator=generator) / d**0.5, "W_dec": rows}
        biases = {"b_enc": 0.1 * torch.randn(d_sae, generator=generator), "b_dec": torch.randn(d, generator=generator)}
        found.append(Dictionary(**weights, **biases, threshold=torch.full((d_sae,), 0.3), is_transcoder=True))
    return found


@pytest.fixture(params=tiny_models.MODELS)
def prompt(request, generator):
    model = tiny_models.tiny(request.param)
    frozen_model = FrozenModel(model, torch.tensor([[1, 7, 12, 3, 30, 9]]))
    skip = torch.tensor([True, *[False] * 5])
    targets = graphs.salient_logit_targets(frozen_model.logits[-1], str, desired_logit_prob=0.9, max_n_logits=5)
    return frozen_model, transcoders(frozen_model, generator), targets, skip


def attributed(prompt, **more):
    frozen_model, transcoders, targets, skip = prompt
    return graphs.attribute(
        frozen_model, transcoders, targets, list("abcdef"), skip, **{"max_feature_nodes": 1000} | more
    )


@pytest.mark.parametrize("max_feature_nodes", [1000, 20])
def test_rows_and_bias_add_up_to_pre_activations_and_logits(prompt, max_feature_nodes):
    graph = attributed(prompt, max_feature_nodes=max_feature_nodes)

    said, part = graph.effects.sum(1) + graph.bias, graph.node_slices
    for kind in ("features", "logits"):
        torch.testing.assert_close(said[part[kind]], graph.totals[part[kind]], rtol=1e-3, atol=1e-3)
    assert len(graph.features) == min(max_feature_nodes, len(graph.features) + graph.n_omitted)
    assert not graph.effects[part["errors"]].any()
    assert not graph.effects[part["tokens"]].any()


def test_the_locally_replaced_model_gives_the_models_logits(prompt):
    assert attributed(prompt).max_logit_error <= 1e-4


def test_held_model_is_the_model_where_nothing_changes(prompt):
    frozen_model = prompt[0]
    with torch.no_grad():
        reads, hidden = frozen_model.run(frozen_model.embedding[None], lambda _, __, written: written)

    torch.testing.assert_close(hidden[0], frozen_model.hidden, rtol=1e-4, atol=1e-4)
    for read, true in zip(reads, frozen_model.mlp_inputs, strict=True):
        torch.testing.assert_close(read[0], true, rtol=1e-4, atol=1e-4)


def test_total_effects_are_what_the_linear_model_measures(prompt):
    frozen_model, transcoders, targets, skip = prompt
    graph = attributed(prompt)
    predicted = graphs.total_effects(graph)
    acts = graphs.feature_activations(frozen_model, transcoders, skip)
    chosen = torch.arange(len(graph.features))[::3]
    ablated = interventions.steer_features(graph, transcoders, chosen, torch.zeros(len(chosen)))
    by_setting = {
        setting: interventions.measure_effects(frozen_model, transcoders, acts, targets, ablated, setting)
        for setting in interventions.SETTINGS
    }
    gates = [(a != 0).to(a) for a in acts]

    def said(ablated=None):
        def mlp(layer, read, _):
            a = gates[layer] * transcoders[layer].preactivations(read)
            if ablated is not None and ablated[0] == layer:
                a = a.clone()
                a[:, ablated[1], ablated[2]] = 0
            return (a - acts[layer]) @ transcoders[layer].W_dec + frozen_model.mlp_outputs[layer]

        with torch.no_grad():
            _, hidden = frozen_model.run(frozen_model.embedding[None], mlp)
        return frozen_model.target_values(targets, hidden[0, -1])

    measured = torch.stack([said(place) - said() for place in graph.features.tolist()[::3]], 1)
    torch.testing.assert_close(-predicted[:, ::3], measured, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(by_setting["linear"], measured.T, rtol=1e-3, atol=2e-3)
    expected = interventions.predict_effects(graph, chosen, torch.zeros(len(chosen)))
    torch.testing.assert_close(expected, by_setting["linear"], rtol=1e-3, atol=2e-3)
    # Freezing makes a difference.
    assert (by_setting["unfrozen"] - by_setting["frozen"]).abs().max() > 1e-3
    assert (by_setting["frozen"] - by_setting["linear"]).abs().max() > 1e-3


def test_a_change_with_nothing_held_is_what_a_hook_on_the_model_does(prompt):
    frozen_model, transcoders, targets, skip = prompt
    graph, acts = attributed(prompt), graphs.feature_activations(frozen_model, transcoders, skip)
    chosen = torch.arange(len(graph.features))[:2]
    steering = interventions.steer_features(
        graph, transcoders, chosen, torch.tensor([0.0, 3.0]), runs=torch.tensor([0, 0])
    )
    (layer, position, _), (other, place, _) = graph.features[chosen].tolist()
    assert layer == other == 0

    def change(written):
        new = written.clone()
        new[0, position] += steering.vectors[0]
        new[0, place] += steering.vectors[1]
        return new

    with (
        torch.no_grad(),
        patch(frozen_model.sites[0].output_module, change),
        capture({"hidden": frozen_model.parts.final_norm}) as found,
    ):
        frozen_model.model(input_ids=frozen_model.ids)
    expected = frozen_model.target_values(targets, found["hidden"][0, -1]) - frozen_model.target_values(
        targets, frozen_model.hidden[-1]
    )
    (measured,) = interventions.measure_effects(frozen_model, transcoders, acts, targets, steering, "unfrozen")
    torch.testing.assert_close(measured, expected, rtol=1e-3, atol=1e-4)
    sizes = graph.activations[chosen] * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(steering.vectors.norm(dim=-1), sizes)


def test_runs_are_alike_alone_and_in_batches(prompt):
    frozen_model, transcoders, targets, skip = prompt
    graph, acts = attributed(prompt), graphs.feature_activations(frozen_model, transcoders, skip)
    chosen = torch.arange(len(graph.features)).repeat(3)[:70]
    steering = interventions.steer_features(graph, transcoders, chosen, torch.full((70,), 2.0))
    together = interventions.measure_effects(frozen_model, transcoders, acts, targets, steering, "replacement")
    alone = interventions.measure_effects(
        frozen_model, transcoders, acts, targets, steering.select_runs(66, 67), "replacement"
    )
    torch.testing.assert_close(together[66:67], alone, rtol=1e-3, atol=1e-4)


def test_random_directions_are_as_long_in_the_same_places(generator):
    vectors = torch.randn(5, 8, generator=generator)
    steering = interventions.SteeringVectors(torch.arange(5), torch.zeros(5), torch.ones(5), vectors)
    control = interventions.random_directions(steering, 1)
    torch.testing.assert_close(control.vectors.norm(dim=-1), vectors.norm(dim=-1))
    assert (torch.cosine_similarity(control.vectors, vectors).abs() < 0.95).all()
    assert control.positions is steering.positions


def test_a_part_of_the_targets_has_their_rows_only(prompt):
    graph = attributed(prompt)
    first = graph.select_targets(slice(0, 1))
    assert len(first.effects) == len(graph.effects) - len(graph.targets) + 1
    row = graph.node_slices["logits"].start
    torch.testing.assert_close(first.effects[row, :row], graph.effects[row, :row])
    torch.testing.assert_close(first.effects[:row, :row], graph.effects[:row, :row])
    assert first.node_slices["logits"] == slice(row, row + 1)


def test_influence_sums_over_paths():
    """Two features: token → first → second → logit, and token → logit."""
    effects = torch.zeros(4, 4)
    first, second, token, logit = range(4)
    effects[first, token] = -2.0
    effects[second, first] = 1.0
    effects[logit, second], effects[logit, token] = 3.0, 1.0
    weights = torch.tensor([0.0, 0.0, 0.0, 0.8])

    torch.testing.assert_close(graphs.compute_node_influence(effects, weights), torch.tensor([0.6, 0.6, 0.8, 0.0]))


def test_scores_and_pruning_of_a_graph_that_is_known():
    """One layer, one token: a feature and an error, both read by the logit, three to one."""
    effects = torch.zeros(4, 4)
    feature, error, token, logit = range(4)
    effects[feature, token] = 2.0
    effects[logit, feature], effects[logit, error] = 3.0, -1.0
    target = graphs.LogitTarget("x", 0, 0.5, torch.zeros(3))
    features, activations = torch.tensor([[0, 0, 5]]), torch.tensor([2.0])
    graph = graphs.AttributionGraph(
        ["a"], [1], 1, features, activations, [target], effects, torch.zeros(4), torch.ones(4), 0, 0.0
    )

    replacement, completeness = graphs.compute_graph_scores(graph)
    assert replacement == pytest.approx(0.75)
    # Weights: logit .5, feature .375, token .375, error .125; only the logit has error among its inputs, a quarter.
    assert completeness == pytest.approx(1 - 0.5 * 0.25 / 1.375)

    pruned = graphs.prune_graph(graph, node_threshold=0.8, edge_threshold=0.98)
    assert pruned.node_mask.tolist() == [True, False, True, True]
    assert pruned.edge_mask.nonzero().tolist() == [[feature, token], [logit, feature]]


def test_targets_reach_the_share_and_a_contrast_is_a_difference():
    logits = torch.tensor([1.0, 3.0, 2.0, -5.0])
    found = graphs.salient_logit_targets(logits, str, desired_logit_prob=0.9, max_n_logits=10)
    assert [target.token for target in found] == [1, 2]
    assert float(found[0].weights @ logits) == pytest.approx(3.0 - 0.25)
    forced = graphs.salient_logit_targets(logits, str, desired_logit_prob=0.9, max_n_logits=2, first=3)
    assert [target.token for target in forced] == [3, 1]
    only = graphs.contrast_target(logits, str, 1, 2)
    assert float(only.weights @ logits) == 1.0


def test_errors_say_what_to_do(prompt):
    frozen_model, transcoders, targets, skip = prompt
    with pytest.raises(graphs.GraphError, match="2 layers, but there are transcoders of 1"):
        attributed((frozen_model, transcoders[:1], targets, skip))
    transcoders[0].is_transcoder = False
    with pytest.raises(DictionaryError, match="site is `transcoder`"):
        attributed((frozen_model, transcoders, targets, skip))
