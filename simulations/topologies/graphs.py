"""Who is whose neighbour, and how much neighbours count."""

from collections.abc import Iterable
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from roundel.core.errors import ConfigError
from roundel.core.seeds import derive, torch_generator

Graph = Literal["ring", "torus", "complete", "star", "erdos-renyi"]

_TRIES = 100
_TOLERANCE = 1e-9


def neighbours(graph: Graph, nodes: int, probability: float = 0.3, seed: int = 0) -> Tensor:
    """Return an undirected, connected graph as an adjacency matrix.

    Args:
        graph: ``ring``: each node and the next, round in a circle. ``torus``: a grid, as square as
            the number allows, whose opposite sides meet. ``complete``: everybody and everybody.
            ``star``: node 0 and each other one. ``erdos-renyi``: each pair with a probability,
            drawn again until the graph is connected.
        nodes: How many, at least 1.
        probability: For ``erdos-renyi``.
        seed: For ``erdos-renyi``.

    Returns:
        Symmetric, bool, without a diagonal, shape ``(n, n)``.

    Raises:
        ConfigError: There is no such graph of so many nodes.
    """
    match graph:
        case "ring":
            return _matrix(nodes, ((i, (i + 1) % nodes) for i in range(nodes)))
        case "torus":
            return _matrix(nodes, _torus(nodes))
        case "complete":
            return ~torch.eye(nodes, dtype=torch.bool)
        case "star":
            return _matrix(nodes, ((0, i) for i in range(1, nodes)))
        case "erdos-renyi":
            return _erdos_renyi(nodes, probability, seed)


def _matrix(nodes: int, edges: Iterable[tuple[int, int]]) -> Tensor:
    adjacent = torch.zeros(nodes, nodes, dtype=torch.bool)
    for one, other in edges:
        if one != other:
            adjacent[one, other] = adjacent[other, one] = True
    return adjacent


def _torus(nodes: int) -> Iterable[tuple[int, int]]:
    rows = next(r for r in range(isqrt(nodes), 0, -1) if nodes % r == 0)
    columns = nodes // rows
    if rows == 1 and nodes > 1:
        raise ConfigError(
            f"topology.graph = 'torus' of {nodes} clients would be a ring, since {nodes} is no "
            "product; change partition.clients, or say 'ring'"
        )
    for row in range(rows):
        for column in range(columns):
            here = row * columns + column
            yield here, row * columns + (column + 1) % columns
            yield here, (row + 1) % rows * columns + column


def _erdos_renyi(nodes: int, probability: float, seed: int) -> Tensor:
    for attempt in range(_TRIES):
        generator = torch_generator(derive(seed, "graph", attempt))
        drawn = torch.rand(nodes, nodes, dtype=torch.float64, generator=generator) < probability
        above = drawn.triu(diagonal=1)
        adjacent = above | above.T
        if is_connected(adjacent):
            return adjacent
    raise ConfigError(
        f"topology.probability = {probability:g} gave no connected graph of {nodes} clients in "
        f"{_TRIES} draws; raise it"
    )


def is_connected(adjacent: Tensor) -> bool:
    """Tell whether every node can be reached from every other one.

    Args:
        adjacent: An adjacency matrix, shape ``(n, n)``.
    """
    reached = torch.zeros(len(adjacent), dtype=torch.bool)
    reached[0] = True
    while True:
        further = reached | adjacent[reached].any(dim=0)
        if bool((further == reached).all()):
            return bool(reached.all())
        reached = further


def metropolis(adjacent: Tensor) -> Tensor:
    """Return the Metropolis weights of a graph: symmetric and doubly stochastic.

        W_ij = 1 / (1 + max(deg i, deg j))  for neighbours,   W_ii = 1 - sum_j W_ij

    On a complete graph they are all ``1/n``, on a ring of three or more nodes ``1/3``.

    Args:
        adjacent: A symmetric adjacency matrix, shape ``(n, n)``.

    Returns:
        Float64, shape ``(n, n)``.

    Source:
        L. Xiao, S. Boyd and S. Lall, "Distributed average consensus with time-varying Metropolis
        weights", 2006.
    """
    degree = adjacent.sum(dim=1).double()
    weights = torch.where(
        adjacent, 1.0 / (1.0 + torch.maximum(degree.unsqueeze(0), degree.unsqueeze(1))), 0.0
    )
    return weights + torch.diag(1.0 - weights.sum(dim=1))


def check_mixing(weights: Tensor) -> Tensor:
    """Return a mixing matrix if the mean of all nodes survives it.

    Args:
        weights: Shape ``(n, n)``.

    Raises:
        ConfigError: It is not square, not symmetric, has a negative entry, or a row that does not
            sum to 1.
    """
    if weights.dim() != 2 or weights.shape[0] != weights.shape[1]:  # noqa: PLR2004 - a matrix
        raise ConfigError(
            f"mixing weights of shape {tuple(weights.shape)} are no square matrix; give one row "
            "and one column a node"
        )
    ways = {
        "are not symmetric": float((weights - weights.T).abs().max()),
        "have a negative entry": float((-weights).max()),
        "have a row that does not sum to 1": float((weights.sum(dim=1) - 1).abs().max()),
    }
    for wrong, by in ways.items():
        if not by <= _TOLERANCE:
            raise ConfigError(
                f"mixing weights {wrong} (off by {by:.3g}): the mean of the nodes would drift; "
                "take Metropolis weights"
            )
    return weights
