"""Hierarchies, gossip, all-reduce and split learning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.data import Examples
from roundel.core.errors import ConfigError
from roundel.core.job import LocalContext, LocalJob, Phase
from roundel.core.learning import Learner
from roundel.core.messages import PARAMS, ClientUpdate, Ticket
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import ParamSpec
from roundel.server.aggregation import (
    Accumulators,
    ServerState,
    aggregate_updates,
    initial_state,
    step,
)
from roundel.simulations.topologies.gossip import Order, gossip_round
from roundel.simulations.topologies.ring import ring_all_reduce, ring_elements
from roundel.simulations.topologies.split import exchange
from roundel.strategies.fedavg import fedavg
from roundel.strategies.sites import RoundContext
from tests.federations import Point, Quadratic, quadratic_task
from tests.oracle.cases import Case, UnknownCase, vector

NO_INTEGERS = torch.empty(0, dtype=torch.int64)


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    known = {
        "hierarchical": (hierarchical, {"client_params", "num_examples", "edges"}),
        "d-psgd": (gossip, {"mixing_matrix", "x", "quadratics", "lr"}),
        "gossip": (gossip, {"mixing_matrix", "x", "quadratics", "lr"}),
        "ring": (all_reduce, {"per_rank_gradients"}),
        "split": (split, {"x", "Wc", "ws", "y"}),
    }
    names = [name for name in known if case.algorithm.lower().startswith(name)]
    if case.kind != "topology" or not names:
        raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    compute, inputs = known[names[0]]
    missing, strange = inputs - case.inputs.keys(), case.inputs.keys() - inputs
    strange -= {"global_params"} if compute is hierarchical else set()
    if missing or strange:
        raise UnknownCase(f"its inputs are not {', '.join(sorted(inputs))}")
    return compute(case)


def hierarchical(case: Case) -> dict[str, Any]:
    """One edge round: the sums of all edges, merged."""
    theirs = [vector(params) for params in case.inputs["client_params"]]
    start = vector(case.inputs.get("global_params", [0.0] * len(theirs[0])))
    counts, edges = case.inputs["num_examples"], case.inputs["edges"]
    if sorted(k for edge in edges for k in edge) != list(range(len(theirs))) or not all(edges):
        raise UnknownCase("its clients do not each belong to one edge")
    strategy, spec = fedavg(), ParamSpec.of(Point(start))
    state = initial_state(strategy, spec, start, NO_INTEGERS)
    sent = [updated(k, params - start, counts[k]) for k, params in enumerate(theirs)]
    context = RoundContext(
        round=1, population=len(theirs), selected=len(theirs), completed=len(theirs)
    )
    cloud, forwarded, weights = Accumulators(strategy, spec), list[Tensor](), list[float]()
    for edge in edges:
        sums = Accumulators(strategy, spec)
        for k in edge:
            sums.add(sent[k])
        forwarded.append(start + sums.finish(context)[PARAMS])
        weights.append(sum(strategy.weigher.weigh(sent[k]) for k in edge))
        cloud.merge(sums)
    return {
        "edge_params": forwarded,
        "edge_weights": weights,
        "global_params": step(strategy, spec, state, cloud.finish(context), context).params,
        # Without its weight an edge is one client like any other.
        "wrong_if_edges_unweighted": unweighted(state, spec, forwarded),
    }


def unweighted(state: ServerState, spec: ParamSpec, edges: Sequence[Tensor]) -> Tensor:
    updates = [updated(k, params - state.params, 1) for k, params in enumerate(edges)]
    return aggregate_updates(fedavg(weights="uniform"), spec, state, updates, len(edges)).params


def updated(client_id: int, delta: Tensor, count: int) -> ClientUpdate:
    if count != int(count) or count < 1:
        raise UnknownCase(f"{count} is no number of examples")
    return ClientUpdate(
        ticket=Ticket(run="oracle", round=1, client_id=client_id),
        base_version=0,
        num_examples=int(count),
        num_steps=1,
        channels={PARAMS: delta},
    )


def gossip(case: Case) -> dict[str, Any]:
    """One step of SGD at each node, on quadratics, by the learning loop."""
    inputs = case.inputs
    weights = torch.tensor(inputs["mixing_matrix"], dtype=torch.float64)
    nodes = torch.stack([vector(row) for row in inputs["x"]])
    if any(q.keys() != {"a", "b"} for q in inputs["quadratics"]):
        raise UnknownCase("its quadratics are not of the form a (w - b)**2 / 2")
    losses = [Quadratic.of(q["a"], q["b"]) for q in inputs["quadratics"]]
    learner = Learner(quadratic_task(torch.zeros_like(nodes[0])), seed=0)
    phase = Phase(optimizer=OptimizerSpec(lr=inputs["lr"]), epochs=None, steps=1, batch_size=None)

    def train(node: int, start: Tensor) -> Tensor:
        job = LocalJob(
            context=LocalContext(spec=learner.spec, sent=start),
            integers=NO_INTEGERS,
            examples=losses[node].examples(),
            phases=[phase],
        )
        return learner.train(job).vector - start

    try:
        after = gossip_round(weights, nodes, train, order_of(case))
        return {
            "x_next": list(after),
            "mean_next": after.mean(dim=0),
            "adapt_then_combine": list(gossip_round(weights, nodes, train, "adapt-then-combine")),
            "combine_then_adapt": list(gossip_round(weights, nodes, train, "combine-then-adapt")),
        }
    except ConfigError as error:
        raise UnknownCase(str(error)) from error


def order_of(case: Case) -> Order:
    """Return in which order a case's nodes mix and train."""
    said = f"{case.algorithm} {case.convention}".lower().replace(" ", "-")
    if "adapt-then-combine" in said:
        return "adapt-then-combine"
    if "combine-then-adapt" in said:
        return "combine-then-adapt"
    if "post-mix" in said:
        raise UnknownCase("it takes the gradient where it is not taken here")
    return "d-psgd"


def all_reduce(case: Case) -> dict[str, Any]:
    """Every rank ends with the sum, and has sent what the formula says."""
    rows = torch.stack([vector(row) for row in case.inputs["per_rank_gradients"]])
    after = ring_all_reduce(rows)
    return {
        "sum": after[0],
        "sum_per_rank": list(after),
        "mean": after[0] / len(rows),
        "elements_sent_per_rank": ring_elements(rows.shape[1], len(rows)),
    }


class Weighted(nn.Module):
    """``w x`` for a vector of weights: one number an example."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weights


def split(case: Case) -> dict[str, Any]:
    """A client's tanh of a linear layer, and a server's linear layer with a squared error."""
    if "tanh" not in case.convention or "1/2" not in case.convention:
        raise UnknownCase("the two halves are others than those that are written down here")
    inputs = case.inputs
    outer = torch.tensor(inputs["Wc"], dtype=torch.float64)
    linear = nn.Linear(outer.shape[1], outer.shape[0], bias=False, dtype=torch.float64)
    linear.weight = nn.Parameter(outer)
    batch = Examples(vector(inputs["x"]).unsqueeze(0), vector(inputs["y"]))
    passed = exchange(
        nn.Sequential(linear, nn.Tanh()),
        Weighted(vector(inputs["ws"])),
        lambda outputs, targets: ((outputs - targets) ** 2).mean() / 2,
        batch,
    )
    return {
        "smashed": passed.smashed[0],
        "prediction": passed.outputs,
        "loss": passed.loss,
        "grad_smashed": passed.grad_smashed[0],
        "grad_server": passed.server[0],
        "grad_client": list(passed.client[0]),
    }
