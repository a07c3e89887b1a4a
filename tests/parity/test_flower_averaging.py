"""Our server steps against those of Flower 1.41, on the oracle's numbers and on random ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roundel.core.job import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.core.metrics import Metrics
from roundel.core.params import ParamSpec
from roundel.server.aggregation import aggregate_updates, initial_state
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox
from roundel.strategies.qfedavg import qfedavg
from tests.federations import Point
from tests.oracle.cases import Case
from tests.parity.flower_strategies import flower_aggregate
from tests.strategies.updates import update
from tests.test_oracle import bundled

flower = pytest.importorskip("flwr.serverapp.strategy")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Array = NDArray[np.float64]
Round = tuple[list[Array], list[int], list[float]]
"""The clients' parameters, their numbers of examples and their losses before training."""

CLIENT_LR = 0.3

PAIRS: Mapping[str, tuple[Callable[[], Any], Callable[[], Strategy | Part]]] = {
    "FedAvg": (flower.FedAvg, fedavg),
    "FedProx": (lambda: flower.FedProx(proximal_mu=0.1), lambda: fedprox(mu=0.1)),
    "FedAvgM": (
        lambda: flower.FedAvgM(server_momentum=0.8, server_learning_rate=0.5),
        lambda: fedavgm(momentum=0.8, server_lr=0.5),
    ),
    "FedAdagrad": (
        lambda: flower.FedAdagrad(eta=0.2, tau=0.01),
        lambda: fedadagrad(server_lr=0.2, tau=0.01, v_init=0.0),
    ),
    "FedAdam": (
        lambda: flower.FedAdam(eta=0.2, beta_1=0.8, beta_2=0.95, tau=0.01),
        lambda: fedadam(
            server_lr=0.2,
            beta_1=0.8,
            beta_2=0.95,
            tau=0.01,
            v_init=0.0,
            bias_correction="flower",
        ),
    ),
    "FedYogi": (
        lambda: flower.FedYogi(eta=0.2, beta_1=0.8, beta_2=0.95, tau=0.01),
        lambda: fedyogi(server_lr=0.2, beta_1=0.8, beta_2=0.95, tau=0.01, v_init=0.0),
    ),
    "QFedAvg": (
        lambda: flower.QFedAvg(client_learning_rate=CLIENT_LR, q=0.7),
        lambda: qfedavg(q=0.7),
    ),
    "QFedAvg, q = 0": (
        lambda: flower.QFedAvg(client_learning_rate=CLIENT_LR, q=0.0),
        lambda: qfedavg(q=0.0),
    ),
}


def theirs(strategy: Any, first: Array, rounds: Sequence[Round]) -> list[Array]:
    """Return the parameters after each round, by Flower."""
    points = [first]
    for number, (clients, counts, losses) in enumerate(rounds, start=1):
        metrics = [{"train_loss": loss} for loss in losses]
        points.append(flower_aggregate(strategy, points[-1], clients, counts, metrics, number))
    return points[1:]


def ours(made: Strategy | Part, first: Array, rounds: Sequence[Round]) -> list[Array]:
    """Return the same by us; finishing steps at the clients included."""
    strategy = compose(made)
    start = torch.from_numpy(first)
    none = torch.empty(0, dtype=torch.int64)
    spec = ParamSpec.of(Point(start))
    server = initial_state(strategy, spec, start, none)
    points = []
    for clients, counts, losses in rounds:
        sent = server.params
        context = LocalContext(spec=spec, sent=sent, lr=CLIENT_LR)
        updates = []
        for k, (own, count, loss) in enumerate(zip(clients, counts, losses, strict=True)):
            trained = Trained(
                vector=torch.from_numpy(own),
                integers=none,
                metrics=Metrics(),
                steps=(1,),
                loss_before=torch.tensor(loss, dtype=torch.float64),
            )
            channels = {PARAMS: trained.vector - sent}
            for finish in strategy.finishers:
                channels |= finish(trained, context).channels
            numbers = {name: value.tolist() for name, value in channels.items()}
            updates.append(update(k, *numbers.pop(PARAMS), examples=count, **numbers))
        server = aggregate_updates(strategy, spec, server, updates, population=len(updates))
        points.append(server.params.numpy())
    return points


def random_rounds(seed: int) -> tuple[Array, list[Round]]:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 20))
    rounds: list[Round] = []
    for _ in range(6):
        clients = int(rng.integers(2, 9))
        rounds.append(
            (
                list(rng.normal(size=(clients, size))),
                rng.integers(1, 500, size=clients).tolist(),
                rng.uniform(0.05, 3, size=clients).tolist(),
            )
        )
    return rng.normal(size=size), rounds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PAIRS)
def test_six_rounds_of_random_updates_end_where_flowers_end(name, seed):
    make_theirs, make_ours = PAIRS[name]
    first, rounds = random_rounds(seed)
    for one, other in zip(
        ours(make_ours(), first, rounds), theirs(make_theirs(), first, rounds), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def rounds_of(case: Case) -> list[Round]:
    return [
        (
            [np.array(params, dtype=np.float64) for params in one["client_params"]],
            one.get("num_examples", [1] * len(one["client_params"])),
            one.get("loss_of_global_model", [1.0] * len(one["client_params"])),
        )
        for one in case.inputs.get("rounds", [case.inputs])
    ]


CASES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "fedavg_weighted": lambda _: flower.FedAvg(),
    "fedavgm_3rounds": lambda case: flower.FedAvgM(
        server_momentum=case["server_momentum"], server_learning_rate=case["server_lr"]
    ),
    "fedadagrad_v0_zero": lambda case: flower.FedAdagrad(eta=case["eta"], tau=case["tau"]),
    "fedadam_flower": lambda case: flower.FedAdam(
        **{name: case[name] for name in ("eta", "beta_1", "beta_2", "tau")}
    ),
    "fedyogi_v0_zero": lambda case: flower.FedYogi(
        **{name: case[name] for name in ("eta", "beta_1", "beta_2", "tau")}
    ),
    "qfedavg_q0": lambda case: flower.QFedAvg(client_learning_rate=case["client_lr"], q=case["q"]),
    "qfedavg_q0.1": lambda case: flower.QFedAvg(
        client_learning_rate=case["client_lr"], q=case["q"]
    ),
}


@pytest.mark.parametrize("case_id", CASES)
def test_flower_itself_reproduces_the_oracles_numbers(case_id):
    """What we hold ourselves against elsewhere is what the installed Flower computes."""
    case = bundled(case_id)
    first = np.array(case.inputs["global_params"], dtype=np.float64)
    points = theirs(CASES[case_id](case.inputs), first, rounds_of(case))
    expected = case.expected.get("global_params_per_round") or [case.expected["global_params"]]
    np.testing.assert_allclose(points, expected, rtol=case.rtol, atol=case.atol)


def test_flowers_adam_is_none_of_our_other_conventions():
    # It takes t + 1 for t: a step of the first round is scaled by sqrt(1 - b2**2) / (1 - b1**2).
    first, rounds = random_rounds(7)
    make_theirs, _ = PAIRS["FedAdam"]
    (their_point,) = theirs(make_theirs(), first, rounds[:1])
    for correction in ("none", "kingma", "textbook"):
        (our_point,) = ours(
            fedadam(
                server_lr=0.2,
                beta_1=0.8,
                beta_2=0.95,
                tau=0.01,
                v_init=0.0,
                bias_correction=correction,
            ),
            first,
            rounds[:1],
        )
        assert np.abs(our_point - their_point).max() > 1e-3
