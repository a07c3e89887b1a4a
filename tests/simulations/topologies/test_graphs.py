"""Graphs and mixing weights."""

import pytest
import torch

from roundel.core.errors import ConfigError
from roundel.simulations.topologies.graphs import (
    check_mixing,
    is_connected,
    metropolis,
    neighbours,
)

GRAPHS = ["ring", "torus", "complete", "star", "erdos-renyi"]


def pairs(adjacent):
    return {tuple(pair) for pair in adjacent.triu().nonzero().tolist()}


def test_a_ring_joins_each_node_to_the_next():
    assert pairs(neighbours("ring", 4)) == {(0, 1), (1, 2), (2, 3), (0, 3)}


def test_a_ring_of_two_is_one_edge_and_one_node_has_no_neighbour():
    assert pairs(neighbours("ring", 2)) == {(0, 1)}
    assert pairs(neighbours("ring", 1)) == set()


def test_a_torus_is_as_square_as_the_number_allows():
    # 2 rows of 3: each row is a ring, and both rows meet at each column, once.
    assert pairs(neighbours("torus", 6)) == {
        *[(0, 1), (1, 2), (0, 2)],
        *[(3, 4), (4, 5), (3, 5)],
        *[(0, 3), (1, 4), (2, 5)],
    }
    assert neighbours("torus", 9).sum(dim=1).tolist() == [4] * 9


def test_a_torus_of_a_prime_number_is_refused():
    with pytest.raises(ConfigError, match="'torus' of 7 clients would be a ring"):
        neighbours("torus", 7)


def test_a_complete_graph_and_a_star():
    assert pairs(neighbours("complete", 3)) == {(0, 1), (0, 2), (1, 2)}
    assert pairs(neighbours("star", 4)) == {(0, 1), (0, 2), (0, 3)}


def test_a_random_graph_is_that_of_its_seed_and_connected():
    first = neighbours("erdos-renyi", 12, 0.3, seed=1)
    assert torch.equal(first, neighbours("erdos-renyi", 12, 0.3, seed=1))
    assert not torch.equal(first, neighbours("erdos-renyi", 12, 0.3, seed=2))
    assert is_connected(first)


def test_a_random_graph_has_each_edge_as_often_as_it_should():
    drawn = [neighbours("erdos-renyi", 10, 0.6, seed=seed) for seed in range(100)]
    share = float(torch.stack(drawn).double().mean()) * 10 / 9
    assert share == pytest.approx(0.6, abs=0.03)  # sigma is 0.007


def test_a_random_graph_that_is_never_connected_is_refused():
    with pytest.raises(ConfigError, match=r"topology.probability = 0.01 gave no connected graph"):
        neighbours("erdos-renyi", 30, 0.01)


def test_two_halves_that_do_not_meet_are_not_connected():
    apart = torch.zeros(4, 4, dtype=torch.bool)
    apart[0, 1] = apart[1, 0] = apart[2, 3] = apart[3, 2] = True
    assert not is_connected(apart)


def test_metropolis_weights_of_a_path_by_hand():
    # Degrees 1, 2, 1: each edge weighs 1 / (1 + 2).
    path = neighbours("star", 3)
    third = 1 / 3
    expected = [[third, third, third], [third, 2 * third, 0], [third, 0, 2 * third]]
    torch.testing.assert_close(metropolis(path), torch.tensor(expected, dtype=torch.float64))


def test_metropolis_weights_of_a_complete_graph_are_all_the_same():
    weights = metropolis(neighbours("complete", 5))
    torch.testing.assert_close(weights, torch.full((5, 5), 0.2, dtype=torch.float64))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("nodes", [1, 4, 6, 20])
def test_metropolis_weights_keep_the_mean_and_bring_nodes_together(graph, nodes):
    adjacent = neighbours(graph, nodes, probability=0.5)
    weights = check_mixing(metropolis(adjacent))
    assert torch.equal(weights > 0, adjacent | torch.eye(nodes, dtype=torch.bool))
    ones = torch.full((nodes, nodes), 1 / nodes, dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.matrix_power(weights, 2000), ones)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([[1.0, 0.0]], "no square matrix"),
        ([[0.5, 0.5], [0.4, 0.6]], "not symmetric"),
        ([[1.5, -0.5], [-0.5, 1.5]], "negative entry"),
        ([[0.5, 0.4], [0.4, 0.6]], "does not sum to 1"),
        ([[float("nan"), 0.5], [0.5, 0.5]], "not symmetric"),
    ],
)
def test_weights_under_which_the_mean_would_drift_are_refused(weights, reason):
    with pytest.raises(ConfigError, match=reason):
        check_mixing(torch.tensor(weights))
