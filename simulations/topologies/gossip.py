"""Decentralised SGD: clients and their neighbours, and nobody in the middle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.goals import lower_is_better
from roundel.core.metrics import Metrics
from roundel.server.aggregation import ServerState
from roundel.simulations.topologies.graphs import check_mixing, metropolis, neighbours
from roundel.simulations.topologies.models import keep, model_of
from roundel.simulations.topologies.peers import (
    Advance,
    Figures,
    Ground,
    Model,
    Topology,
    Worked,
    summed,
    work,
)

Order = Literal["d-psgd", "adapt-then-combine", "combine-then-adapt"]

Train = Callable[[int, Tensor], Tensor]
"""A node and its vector to what training adds to it: ``-lr g`` for one step of SGD."""


def gossip_round(
    weights: Tensor,
    nodes: Tensor,
    train: Train,
    order: Order = "d-psgd",
    buffers: slice = slice(0),
) -> Tensor:
    """Return the nodes' vectors after one round.

        d-psgd               x_i <- sum_j W_ij x_j + delta_i(x_i)
        adapt-then-combine   x_i <- sum_j W_ij (x_j + delta_j(x_j))
        combine-then-adapt   x_i <- z_i + delta_i(z_i),  z_i = sum_j W_ij x_j

    The mean over the nodes is the same for the first two, and for all three once the nodes agree.
    Statistics such as a running variance are no sums of steps: where d-psgd would add to the
    neighbours' mean how far a node's own have moved, which can make a variance negative, they are
    combined after training.

    Args:
        weights: Symmetric and doubly stochastic, float64, shape ``(n, n)``.
        nodes: One row a node, shape ``(n, D)``.
        train: Called once for each node, in order.
        order: Which of the three.
        buffers: Where the statistics are in a vector.

    Returns:
        Float64, shape ``(n, D)``.

    Raises:
        ConfigError: The mean would not survive these weights.
    """
    mixing = check_mixing(weights.double())
    start = nodes.double()
    if order == "combine-then-adapt":
        start = mixing @ start
    given = start.to(nodes.dtype)
    steps = torch.stack([train(i, row) for i, row in enumerate(given)]).double()
    match order:
        case "d-psgd":
            after = mixing @ start + steps
            after[:, buffers] = mixing @ (start + steps)[:, buffers]
            return after
        case "adapt-then-combine":
            return mixing @ (start + steps)
        case "combine-then-adapt":
            return start + steps


def consensus_distance(nodes: Tensor) -> float:
    """Return how far nodes are from their mean: the root of the mean squared distance.

    Args:
        nodes: Shape ``(n, D)``.
    """
    apart = nodes.double() - nodes.double().mean(dim=0)
    return float(apart.square().sum(dim=1).mean().sqrt())


@dataclass(frozen=True, kw_only=True)
class Network:
    """The links of a gossip run.

    Attributes:
        adjacent: Shape ``(n, n)``.
        weights: Shape ``(n, n)``.
    """

    adjacent: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls,
        graph: Literal["ring", "torus", "complete", "star", "erdos-renyi"],
        nodes: int,
        probability: float,
        seed: int,
    ) -> "Network":
        """Make a graph with Metropolis weights.

        Raises:
            ConfigError: There is no such graph.
        """
        adjacent = neighbours(graph, nodes, probability, seed)
        return cls(adjacent=adjacent, weights=metropolis(adjacent))

    @property
    def edges(self) -> int:
        """How many pairs of neighbours there are."""
        return int(self.adjacent.sum()) // 2


def gossip(ground: Ground) -> Topology:
    """Let clients train models of their own and mix them with their neighbours' in every round.

    Every client is a node and takes part in every round. The graph is that of ``topology.graph``
    and does not change; its weights are Metropolis weights. Local training is the experiment's:
    ``client.steps = 1`` is D-PSGD as published, more steps or epochs its variant with local steps,
    whose difference takes the place of the gradient step. ``topology.order`` says whether a node
    mixes beside, after or before it trains; see `gossip_round`. Buffers of floats are always convex
    combinations of trained ones; counters take the neighbours' maximum. Nodes count the same, and
    so do clients in the star that this is to be compared with: set ``strategy.weights = "uniform"``
    there.

    A round's figures on the global test set are those of the mean of all nodes, and under
    ``topology`` there is the mean over nodes, the worst of them, and how far they are from their
    mean (``consensus_distance``). Each pair of neighbours exchanges one model each way.

    Args:
        ground: What there is.

    Source:
        X. Lian et al., "Can Decentralized Algorithms Outperform Centralized Algorithms? A Case
        Study for Decentralized Parallel Stochastic Gradient Descent", NeurIPS 2017, Algorithm 1.
        Adapt-then-combine: A. H. Sayed, "Adaptation, Learning, and Optimization over Networks",
        2014.
    """
    experiment = ground.server.plan.experiment
    settings, size = experiment.topology, ground.population.size
    network = Network.of(
        settings.graph, size, settings.probability, experiment.seed_for("sampling")
    )

    def advance(state: ServerState) -> Advance:
        before = [model_of(ground, k) for k in range(size)]
        integers = _spread(network.adjacent, [model[1] for model in before])
        worked: list[Worked] = []

        def train(node: int, vector: Tensor) -> Tensor:
            worked.append(work(ground, state.round + 1, node, (vector, before[node][1])))
            return worked[-1].model[0].double() - vector.double()

        rows = torch.stack([model[0] for model in before])
        buffers = ground.server.learner.spec.shared_buffers
        after = gossip_round(network.weights, rows, train, settings.order, buffers)
        dtype = rows.dtype
        counters = [
            torch.maximum(mixed, each.model[1])
            for mixed, each in zip(integers, worked, strict=True)
        ]
        models: Mapping[int, Model] = {k: (after[k].to(dtype), counters[k]) for k in range(size)}
        keep(ground, models, worked)
        sent = 2 * network.edges * (rows[0].nbytes + before[0][1].nbytes)
        return summed(
            (after.mean(dim=0).to(dtype), torch.stack(counters).amax(dim=0)),
            worked,
            bytes_up=sent,
            bytes_down=sent,
            figures={"edges": network.edges, "consensus_distance": consensus_distance(after)},
        )

    def judged(test: Examples) -> Figures:
        nodes = [ground.server.learner.evaluate(*model_of(ground, k), test) for k in range(size)]
        return _over_nodes(nodes)

    return Topology(advance=advance, own=lambda k: model_of(ground, k), judged=judged)


def _spread(adjacent: Tensor, integers: list[Tensor]) -> list[Tensor]:
    """Return the maximum of each node's counters and its neighbours'."""
    rows = torch.stack(integers)
    with_itself = adjacent | torch.eye(len(adjacent), dtype=torch.bool)
    return [rows[near].amax(dim=0) for near in with_itself]


def _over_nodes(nodes: list[Metrics]) -> Figures:
    """Return each metric's mean over the nodes, and the worst of them."""
    means = [node.means() for node in nodes]
    return {
        name: {
            "mean": sum(each[name] for each in means) / len(means),
            "worst": (max if lower_is_better(name) else min)(each[name] for each in means),
        }
        for name in means[0]
    }
