"""Closed forms against dense solutions in float64, and special cases against each other."""

import pytest
import torch

from factlife.editing.requests import EditError
from factlife.editing.solver import UpdateCost, null_space, ridge_for_fraction, solve_update


@pytest.fixture
def problem(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spared = draw(12, 80)
    return draw(5, 4), draw(12, 4), spared @ spared.T / 80, draw(12, 3)


def assert_close(found, expected):
    assert (found - expected).norm() <= 1e-8 * expected.norm()


def test_memit_is_the_published_form_and_the_ridge_solution(problem):
    residuals, keys, moment, _ = problem

    found = solve_update(residuals, keys, UpdateCost(moment), 30.0)

    assert_close(found, residuals @ keys.T @ torch.linalg.inv(30 * moment + keys @ keys.T))
    root = torch.linalg.cholesky(30 * moment)
    read, wanted = torch.cat([keys, root], 1), torch.cat([residuals, torch.zeros(5, 12)], 1)
    assert_close(found, torch.linalg.lstsq(read.T, wanted.T).solution.T)


def test_memit_sequential_spares_past_keys(problem):
    residuals, keys, moment, past = problem

    found = solve_update(
        residuals, keys, UpdateCost(moment).preserve(past[:, :1], 30.0).preserve(past[:, 1:], 30.0), 30.0
    )

    assert_close(found, residuals @ keys.T @ torch.linalg.inv(30 * moment + past @ past.T + keys @ keys.T))


def test_rome_writes_one_value_exactly_with_the_least_disturbance(problem):
    residuals, keys, moment, _ = problem

    found = solve_update(residuals[:, :1], keys[:, :1], UpdateCost(moment), 0.0)

    direction = torch.linalg.solve(moment, keys[:, 0])
    assert_close(found, torch.outer(residuals[:, 0], direction) / (direction @ keys[:, 0]))
    assert_close(found @ keys[:, :1], residuals[:, :1])


def test_emmet_with_one_edit_is_rome_but_for_the_ridge(problem):
    residuals, keys, moment, _ = problem
    one = residuals[:, :1], keys[:, :1], UpdateCost(moment)

    assert_close(solve_update(*one, 1e-12), solve_update(*one, 0.0))
    strength = one[2].leverage(one[1])
    assert_close(solve_update(*one, 0.1) @ one[1], one[0] * strength / (strength + 0.1))


def test_emmet_is_the_published_form(problem):
    residuals, keys, moment, _ = problem
    inverse = torch.linalg.inv(moment)

    expected = residuals @ torch.linalg.inv(keys.T @ inverse @ keys + 0.1 * torch.eye(4)) @ keys.T @ inverse

    assert_close(solve_update(residuals, keys, UpdateCost(moment), 0.1), expected)


def test_alphaedit_in_null_space_coordinates_is_the_published_form(problem):
    residuals, keys, moment, past = problem
    basis = null_space(moment, energy=0.3)
    projection = basis @ basis.T
    assert 0 < basis.shape[1] < 12

    cost = UpdateCost(torch.eye(basis.shape[1], dtype=torch.float64), basis).preserve(past, 10.0)
    found = solve_update(residuals, keys, cost, 10.0)

    normal = past @ past.T @ projection + keys @ keys.T @ projection + 10 * torch.eye(12)
    assert_close(found, residuals @ keys.T @ projection @ torch.linalg.inv(normal))


def test_alphaedit_with_all_directions_free_is_ridge_regression(problem):
    residuals, keys, moment, _ = problem
    basis = null_space(moment, energy=1.0)

    found = solve_update(residuals, keys, UpdateCost(torch.eye(12, dtype=torch.float64), basis), 10.0)

    assert_close(found, residuals @ keys.T @ torch.linalg.inv(keys @ keys.T + 10 * torch.eye(12)))


def test_alphaedit_leaves_keys_outside_the_free_space_alone(problem):
    residuals, keys, moment, _ = problem
    basis = null_space(moment, energy=0.3)
    used = torch.linalg.eigh(moment)[1][:, basis.shape[1] :]

    found = solve_update(residuals, keys, UpdateCost(torch.eye(basis.shape[1], dtype=torch.float64), basis), 1.0)

    assert (found @ used).norm() <= 1e-12 * found.norm()


def test_the_free_space_holds_at_most_its_share_of_energy():
    moment = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))

    assert null_space(moment, energy=0.3).shape == (4, 2)
    assert null_space(moment, energy=0.29).shape == (4, 1)
    assert null_space(moment, energy=0.0, threshold=3.5).shape == (4, 3)


def test_the_ridge_delivers_the_share(problem):
    residuals, keys, moment, _ = problem
    cost = UpdateCost(moment)

    weight = ridge_for_fraction(0.8, cost.leverage(keys[:, :1]))

    assert_close(solve_update(residuals[:, :1], keys[:, :1], cost, weight) @ keys[:, :1], 0.8 * residuals[:, :1])


def test_bad_problems_are_told(problem):
    residuals, keys, moment, past = problem
    with pytest.raises(EditError, match="singular"):
        UpdateCost(past @ past.T)
    with pytest.raises(EditError, match="not finite"):
        UpdateCost(moment * torch.nan)
    with pytest.raises(EditError, match="dimension zero"):
        null_space(moment, energy=0.0)
    with pytest.raises(EditError, match="not finite"):
        null_space(moment * torch.inf, energy=0.1)
    with pytest.raises(EditError, match="linearly dependent"):
        solve_update(residuals[:, :2], keys[:, :1].repeat(1, 2), UpdateCost(moment), 0.0)
    with pytest.raises(EditError, match="13 edits are more than a layer with 12"):
        solve_update(torch.ones(5, 13), torch.ones(12, 13), UpdateCost(moment), 1.0)
