import numpy as np
import pytest
import torch

from factlife.circuits.edges import build_computation_graph
from factlife.circuits.validation import (
    CircuitRuns,
    add_single_edges,
    bootstrap_stability,
    cpr_and_cmd,
    minimality,
    remove_single_edges,
    sample_connected_circuits,
    sample_random_circuits,
    sample_subsets,
)

SMALL = build_computation_graph(2, 2, 2)


def test_faithfulness_is_the_share_of_the_mean_difference():
    measured = CircuitRuns(
        differences=np.array([[4.0, 0.0], [6.0, 2.0], [-2.0, -4.0]]),
        hits=np.zeros((3, 2)),
        full=np.array([6.0, 2.0]),
        empty=np.array([-2.0, -4.0]),
        subjects=np.array(["a", "b"]),
    )

    assert measured.faithfulness.tolist() == pytest.approx([(2 + 3) / (4 + 3), 1.0, 0.0])
    resampled = measured.resampled(200)
    # Either both subjects or one of them twice.
    assert set(resampled[:, 0].round(6)) == {round(6 / 8, 6), round(4 / 6, 6), round(10 / 14, 6)}
    assert np.allclose(resampled[:, 1], 1) and np.allclose(resampled[:, 2], 0)


def test_areas_of_a_circuit_that_is_faithful_at_every_size():
    cpr, cmd = cpr_and_cmd([0.0, 0.5, 1.0], np.array([[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]]))

    assert cpr.tolist() == [1.0, 0.5]
    assert cmd.tolist() == [0.0, 0.5]


def test_random_circuits_have_as_many_edges_of_each_kind():
    circuit = SMALL.edges & (torch.rand(SMALL.edges.shape, generator=torch.Generator().manual_seed(3)) < 0.3)
    kinds = SMALL.kinds()

    drawn = sample_random_circuits(SMALL, circuit, 20, seed=0)

    for one in drawn:
        assert not (one & ~SMALL.edges).any()
        assert torch.bincount(kinds[one], minlength=15).equal(torch.bincount(kinds[circuit], minlength=15))
    assert len({tuple(one.flatten().tolist()) for one in drawn}) > 15
    assert torch.equal(drawn[0], sample_random_circuits(SMALL, circuit, 1, seed=0)[0])


def test_random_connected_circuits_keep_to_the_budget():
    for one in sample_connected_circuits(SMALL, 12, 5, seed=0):
        assert 0 < one.sum() <= 12


def test_one_edge_is_taken_out_or_put_in():
    circuit = SMALL.edges.clone()
    circuit[:, -1] = False

    assert all((circuit & ~one).sum() == 1 and not (one & ~circuit).any() for one in remove_single_edges(circuit, 9, 0))
    assert all(
        (one & ~circuit).sum() == 1 and not (circuit & ~one).any() for one in add_single_edges(SMALL, circuit, 9, 0)
    )
    assert not add_single_edges(SMALL, SMALL.edges, 9, 0)


def test_subsets_are_halves_of_the_circuit():
    circuit = SMALL.edges.clone()
    circuit[:, -1] = False

    drawn = sample_subsets(circuit, 200, seed=0)

    assert not any((one & ~circuit).any() for one in drawn)
    often = torch.stack(drawn).float().mean(0)[circuit]
    assert often.mean() == pytest.approx(0.5, abs=0.02) and often.min() > 0.35 and often.max() < 0.65


def test_minimality_counts_edges_that_matter_more_than_random_ones():
    inflated = np.array([0.81, 0.79, 0.80, 0.82])

    assert minimality(0.8, np.array([0.5, 0.795, 0.7, 0.81]), inflated) == 0.5
    assert np.isnan(minimality(0.8, np.array([0.5]), np.array([])))


def test_a_circuit_that_all_subjects_agree_on_is_stable():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(SMALL.edges.shape, generator=generator)
    noise = torch.randn(8, *SMALL.edges.shape, generator=generator)
    subjects = [f"s{number // 2}" for number in range(8)]

    assert bootstrap_stability(SMALL, one.repeat(8, 1, 1), subjects, 15, 10).tolist() == [1.0] * 5
    assert bootstrap_stability(SMALL, noise, subjects, 15, 10).mean() < 0.9
