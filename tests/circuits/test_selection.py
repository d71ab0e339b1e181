import json
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.circuits.edges import CircuitError, build_computation_graph
from factlife.circuits.selection import (
    circuit_components,
    compare_circuits,
    connected_edges,
    edge_count,
    edge_entropy,
    export_circuit,
    jaccard,
    read_circuit,
    select_circuit,
)

SMALL = build_computation_graph(2, 2, 2)


def edge(writer, reader):
    return SMALL.writers.index(writer), SMALL.readers.index(reader)


def circuit(*edges):
    found = torch.zeros(SMALL.edges.shape, dtype=torch.bool)
    for one in edges:
        found[edge(*one)] = True
    return found


def test_only_edges_on_paths_from_input_to_logits_stay():
    path = [("input", "a0.h1<v>"), ("a0.h1", "m1"), ("m1", "logits")]
    dead = [("a0.h0", "m1"), ("input", "a1.h0<k>"), ("m0", "logits")]

    assert connected_edges(SMALL, circuit(*path, *dead)).equal(circuit(*path))
    assert connected_edges(SMALL, SMALL.edges).equal(SMALL.edges)


def test_selection_takes_the_strongest_path_whatever_its_sign():
    scores = torch.zeros(SMALL.edges.shape)
    scores[edge("m0", "logits")], scores[edge("input", "m0")] = -3.0, 0.5
    scores[edge("a0.h0", "m1")], scores[edge("input", "logits")] = 2.0, 0.1

    assert select_circuit(SMALL, scores, 2).equal(circuit(("m0", "logits"), ("input", "m0")))
    assert select_circuit(SMALL, scores, 3).sum() == 3
    assert select_circuit(SMALL, scores, 1).sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60))
def test_a_circuit_keeps_to_its_budget_and_grows_with_it(seed, budget):
    scores = torch.randn(SMALL.edges.shape, generator=torch.Generator().manual_seed(seed))
    smaller, larger = select_circuit(SMALL, scores, budget), select_circuit(SMALL, scores, budget + 5)

    assert smaller.sum() <= budget
    assert not (smaller & ~larger).any()
    assert connected_edges(SMALL, smaller).equal(smaller)
    assert not (larger & ~SMALL.edges).any()


def test_overlap_and_entropy():
    one, other = circuit(("input", "m0"), ("m0", "logits")), circuit(("input", "m0"))

    assert jaccard(one, other) == 0.5 and jaccard(one, one) == 1 and jaccard(one & ~one, other & ~other) == 1
    assert edge_entropy(torch.tensor([[1.0, -1.0], [0.0, 2.0]])) == torch.tensor([0.25, 0.25, 0.5]).log().neg().dot(
        torch.tensor([0.25, 0.25, 0.5])
    )
    assert edge_count(SMALL, 1.0) == int(SMALL.edges.sum())


def test_the_export_has_what_the_benchmark_reads():
    grouped = build_computation_graph(1, 4, 2)
    scores = torch.arange(grouped.edges.numel()).view(grouped.edges.shape).float()
    chosen = connected_edges(grouped, grouped.edges)

    made = export_circuit(grouped, scores, chosen, d_model=8, parallel=False)

    assert made["cfg"] == {"n_layers": 1, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 8}
    assert list(made["nodes"]) == ["input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0", "logits"]
    assert all(node == {"in_graph": True} for node in made["nodes"].values())
    # Four heads with three reads each, an MLP with five writers before it, logits with six.
    assert len(made["edges"]) == 12 + 5 + 6
    assert made["edges"]["input->a0.h2<k>"] == made["edges"]["input->a0.h3<k>"]
    assert made["edges"]["input->a0.h3<k>"]["score"] == scores[0, grouped.readers.index("a0.h1<k>")]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_file_comes_back_as_the_circuit_that_was_written(generator, kv_heads):
    grouped = build_computation_graph(2, 4, kv_heads)
    circuit = grouped.edges & (torch.rand(grouped.edges.shape, generator=generator) < 0.3)

    made = export_circuit(grouped, torch.zeros(circuit.shape), circuit, d_model=8, parallel=False)

    assert read_circuit(grouped, json.loads(json.dumps(made))).equal(circuit)


def test_a_file_may_say_which_nodes_are_in_it_in_a_word():
    circuit = read_circuit(
        SMALL, {"nodes": {"input": True}, "edges": {"input->a1.h1<q>": {"in_graph": True}, "m0->m1": False}}
    )

    assert circuit.nonzero().tolist() == [list(edge("input", "a1.h1<q>"))]


def test_a_circuit_of_another_model_is_an_error():
    with pytest.raises(CircuitError, match=r"contains a2\.h0, which the model does not have"):
        read_circuit(SMALL, {"nodes": {}, "edges": {"a2.h0->logits": {"in_graph": True}}})
    with pytest.raises(CircuitError, match=r"has no edges; set circuits\.level"):
        read_circuit(SMALL, {"nodes": {"m0": {"in_graph": True}}, "edges": {}})


def test_agreement_is_that_of_all_draws():
    every = torch.tensor([True] * 6 + [False])
    found, known = every.clone(), every.clone()
    found[3:], known[:1], known[5:] = False, False, False

    told = compare_circuits(found, known, every)

    # CircuitResults 0, 1, 2 and known 1, 2, 3, 4: two in common; of all draws of three of six parts, some do as well.
    assert told[:3] == pytest.approx((2 / 3, 2 / 4, 2 / 5))
    draws = [len({1, 2, 3, 4} & set(draw)) for draw in combinations(range(6), 3)]
    assert told.chance_precision == pytest.approx(sum(draws) / len(draws) / 3)
    assert told.p == pytest.approx(sum(common >= 2 for common in draws) / len(draws))
    assert compare_circuits(every, every, every).p == 1


def test_parts_of_a_circuit_are_edges_and_what_writes_them():
    chosen = circuit(("input", "m0"), ("m0", "m1"), ("m0", "logits"), ("m1", "logits"))

    edges, nodes = circuit_components(SMALL, chosen).values()

    assert edges[0].sum() == 4 and edges[1].equal(SMALL.edges)
    # a0.h0, a0.h1, m0, a1.h0, a1.h1, m1
    assert nodes[0].tolist() == [False, False, True, False, False, True] and nodes[1].all()
