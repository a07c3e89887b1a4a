"""Where federations of quadratics end up, held against the formula.

Client i minimises ``F_i(x) = 1/2 (x - e_i)' A_i (x - e_i)`` by ``tau_i`` steps of size ``lr``, and
weighs ``p_i``. With ``M_i = (I - lr A_i)**tau_i`` a round of FedAvg is

    x  <-  sum p_i (e_i + M_i (x - e_i)),

whose fixed point is not the optimum of ``sum p_i F_i`` when the curvatures or step counts differ.

All clients share one configuration, so step counts are made to differ as they do in practice: by
the numbers of examples. A client's examples are copies of its one quadratic, which makes each batch
of one example a full gradient: ``tau_i = epochs * n_i``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.linalg import matrix_power, solve
from torch.nn import functional

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.seeds import derive, torch_generator
from roundel.core.task import Task
from roundel.simulations.executor import LoopClients
from roundel.simulations.prepare import Pieces, prepare
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fednova import fednova
from roundel.strategies.fedprox import fedprox, prox
from roundel.strategies.fedsgd import fedsgd
from roundel.strategies.scaffold import scaffold
from tests.federations import Quadratic, federate, quadratic_task

LR = 0.2
EPOCHS = 2
COUNTS = (1, 2, 3, 5)
D = 3
EYE = torch.eye(D, dtype=torch.float64)
START = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)


def draw_quadratic(seed: int) -> Quadratic:
    """Draw a full symmetric matrix with eigenvalues between 1 and 4, and a centre."""
    generator = torch_generator(seed)
    basis, _ = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    eigenvalues = 1 + 3 * torch.rand(D, generator=generator, dtype=torch.float64)
    centre = torch.randn(D, generator=generator, dtype=torch.float64)
    return Quadratic(basis @ eigenvalues.diag() @ basis.T, centre)


QUADRATICS = [draw_quadratic(seed) for seed in range(len(COUNTS))]
CLIENTS = [q.examples(count) for q, count in zip(QUADRATICS, COUNTS, strict=True)]


def shares(weights: str) -> list[float]:
    raw = COUNTS if weights == "examples" else [1] * len(COUNTS)
    return [one / sum(raw) for one in raw]


def weighted(p: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    return torch.stack([share * term for share, term in zip(p, terms, strict=True)]).sum(dim=0)


def optimum(p: Sequence[float]) -> Tensor:
    """Return ``x* = (sum p A)**-1 sum p A e``."""
    return solve(
        weighted(p, [q.A for q in QUADRATICS]), weighted(p, [q.A @ q.e for q in QUADRATICS])
    )


def shrinkage(mu: float = 0.0) -> list[Tensor]:
    """Return ``S_i``: the local work takes ``x - e_i`` to ``(I - S_i)(x - e_i)``.

    With a pull mu and ``B_i = A_i + mu I`` it is ``(I - (I - lr B_i)**tau_i) B_i**-1 A_i``; without
    one, ``I - M_i``.
    """
    found = []
    for q, count in zip(QUADRATICS, COUNTS, strict=True):
        B = q.A + mu * EYE
        found.append((EYE - matrix_power(EYE - LR * B, EPOCHS * count)) @ solve(B, q.A))
    return found


def limit(p: Sequence[float], S: Sequence[Tensor]) -> Tensor:
    """Return the fixed point ``(sum p S)**-1 sum p S e``."""
    return solve(
        weighted(p, S), weighted(p, [one @ q.e for one, q in zip(S, QUADRATICS, strict=True)])
    )


def simulated(out: Path, strategy: Strategy | Part, rounds: int, **settings: Any) -> Tensor:
    """Return the point at which a simulated run ends."""
    whole = compose(strategy)
    run = federate(out, whole, quadratic_task(START), CLIENTS, rounds=rounds, **settings)
    return run.model["w"]


def assert_close(one: Tensor, other: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_fedavg_with_unequal_steps_and_curvatures_ends_beside_the_optimum(weights, tmp_path):
    p = shares(weights)
    strategy = fedavg(weights=weights)
    found = simulated(tmp_path, strategy, 28, lr=LR, epochs=EPOCHS, batch_size=1)
    assert_close(found, limit(p, shrinkage()), 1e-10)
    assert (found - optimum(p)).norm() > 1e-2


def test_each_round_of_fedavg_is_the_affine_map_of_its_formula(tmp_path):
    p, S, expected = shares("examples"), shrinkage(), START
    for _ in range(3):
        gaps = [expected - q.e for q in QUADRATICS]
        expected = expected - weighted(p, [s @ gap for s, gap in zip(S, gaps, strict=True)])
    found = simulated(tmp_path, fedavg(), 3, lr=LR, epochs=EPOCHS, batch_size=1)
    assert_close(found, expected, 1e-13)


@pytest.mark.parametrize(("mu", "rounds"), [(0.5, 32), (1.0, 48)])
def test_fedprox_ends_where_its_formula_says(mu, rounds, tmp_path):
    p = shares("examples")
    found = simulated(tmp_path, fedprox(mu=mu), rounds, lr=LR, epochs=EPOCHS, batch_size=1)
    assert_close(found, limit(p, shrinkage(mu)), 1e-10)
    assert (found - limit(p, shrinkage())).norm() > 1e-3


def test_fedavg_with_equal_steps_still_ends_beside_the_optimum_of_unequal_curvatures(tmp_path):
    p = shares("uniform")
    M = [matrix_power(EYE - LR * q.A, 4) for q in QUADRATICS]
    found = simulated(
        tmp_path,
        fedavg(weights="uniform"),
        32,
        lr=LR,
        steps=4,
        batch_size="full",
    )
    assert_close(found, limit(p, [EYE - m for m in M]), 1e-10)
    assert (found - optimum(p)).norm() > 1e-2


def reach(tau: int, *, lr: float = LR, mu: float = 0.0, rho: float = 0.0) -> float:
    """Return FedNova's ``lr ||a||_1``, from the formulas of its paper, for mu or rho."""
    if mu:
        return (1 - (1 - lr * mu) ** tau) / mu
    return lr * (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)


@pytest.mark.parametrize("weights", ["examples", "uniform"])
@pytest.mark.parametrize("tau_eff", ["norms", "steps"])
def test_fednova_ends_where_its_formula_says(weights, tau_eff, tmp_path):
    # (sum p (I - M) / tau)**-1 sum p ((I - M) / tau) e, however far the server goes.
    p = shares(weights)
    strategy = fednova(weights=weights, tau_eff=tau_eff)
    found = simulated(tmp_path, strategy, 40, lr=LR, epochs=EPOCHS, batch_size=1)
    S = [one / (EPOCHS * count) for one, count in zip(shrinkage(), COUNTS, strict=True)]
    assert_close(found, limit(p, S), 1e-10)
    assert (found - limit(p, shrinkage())).norm() > 1e-2
    assert (found - optimum(p)).norm() > 1e-2


def test_fednova_with_a_pull_ends_where_its_formula_says(tmp_path):
    p, mu = shares("examples"), 0.5
    found = simulated(
        tmp_path,
        compose(fednova(), prox(mu=mu)),
        60,
        lr=LR,
        epochs=EPOCHS,
        batch_size=1,
    )
    lengths = [reach(EPOCHS * count, mu=mu) for count in COUNTS]
    S = [one / length for one, length in zip(shrinkage(mu), lengths, strict=True)]
    assert_close(found, limit(p, S), 1e-10)
    by_steps = [one / count for one, count in zip(shrinkage(mu), COUNTS, strict=True)]
    assert (found - limit(p, by_steps)).norm() > 1e-2


def test_fednova_with_local_momentum_ends_where_its_formula_says(tmp_path):
    # A client's way is x <- x - lr v, v <- rho v + A (x - e): linear in x - e, so its matrix is
    # found by running it on the identity.
    p, lr, rho = shares("examples"), 0.05, 0.5
    S = []
    for q, count in zip(QUADRATICS, COUNTS, strict=True):
        gap, velocity = EYE, torch.zeros_like(EYE)
        for _ in range(EPOCHS * count):
            velocity = rho * velocity + q.A @ gap
            gap = gap - lr * velocity
        S.append((EYE - gap) / reach(EPOCHS * count, lr=lr, rho=rho))
    found = simulated(tmp_path, fednova(), 60, lr=lr, momentum=rho, epochs=EPOCHS, batch_size=1)
    assert_close(found, limit(p, S), 1e-10)


def test_one_step_of_fedsgd_after_another_is_centralised_gradient_descent(tmp_path):
    p, rounds = shares("examples"), 12
    mean_A, best = weighted(p, [q.A for q in QUADRATICS]), optimum(p)
    # Whatever the experiment says about local training: a gradient is a gradient.
    settings: dict[str, Any] = {"lr": 0.7, "momentum": 0.9, "epochs": 3, "batch_size": 1}
    found = simulated(tmp_path, fedsgd(server_lr=LR), rounds, **settings)
    expected = best + matrix_power(EYE - LR * mean_A, rounds) @ (START - best)
    assert_close(found, expected, 1e-13)


@pytest.mark.parametrize(
    ("cohort", "rounds"), [(len(COUNTS), 46), (2, 110)], ids=["everybody", "half of them"]
)
def test_feddyn_ends_at_the_optimum_whatever_the_steps_and_curvatures(cohort, rounds, tmp_path):
    found = simulated(
        tmp_path,
        feddyn(alpha=2.0),
        rounds,
        cohort=cohort,
        lr=LR,
        epochs=1,
        batch_size=1,
    )
    assert_close(found, optimum(shares("uniform")), 1e-10)


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize(
    ("cohort", "rounds"), [(len(COUNTS), 60), (2, 90)], ids=["everybody", "half of them"]
)
def test_scaffold_ends_at_the_optimum_whatever_the_steps_and_curvatures(
    cohort, rounds, option, tmp_path
):
    found = simulated(
        tmp_path,
        scaffold(option=option),
        rounds,
        cohort=cohort,
        lr=0.1,
        epochs=1,
        batch_size=1,
    )
    assert_close(found, optimum(shares("uniform")), 1e-10)


def test_scaffold_with_local_momentum_ends_at_the_optimum_too(tmp_path):
    found = simulated(
        tmp_path,
        scaffold(),
        60,
        lr=0.05,
        momentum=0.5,
        steps=6,
        batch_size="full",
    )
    assert_close(found, optimum(shares("uniform")), 1e-10)


def test_one_full_step_of_everybody_is_centralised_gradient_descent(tmp_path):
    p, rounds = shares("examples"), 12
    mean_A, best = weighted(p, [q.A for q in QUADRATICS]), optimum(p)
    found = simulated(tmp_path, fedavg(), rounds, lr=LR, steps=1, batch_size="full")
    expected = best + matrix_power(EYE - LR * mean_A, rounds) @ (START - best)
    assert_close(found, expected, 1e-13)


# ---- one client that holds everything


@dataclass(frozen=True)
class Round:
    """What one client was sent in a round, and what the federation made of its training."""

    sent: Tensor
    after: Tensor


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def some_examples() -> Examples:
    generator = torch_generator(11)
    inputs = torch.randn(40, 6, generator=generator)
    return Examples(inputs, torch.randint(3, (40,), generator=generator))


def federated(momentum: float) -> list[Round]:
    experiment = Experiment.model_validate(
        {
            "rounds": 6,
            "seed": 3,
            "cohort": {"size": 1},
            "client": {"lr": 0.2, "momentum": momentum, "epochs": 2, "batch_size": 7},
            "evaluation": {"clients": 0},
        }
    )
    pieces = Pieces(
        task=Task(name="mlp", model=mlp), population=InMemoryPopulation.of([some_examples()])
    )
    sim = prepare(experiment, pieces)
    server = sim.server("alone")
    clients = LoopClients(Trainer(sim.plan, sim.learner), sim.population, ClientStore())
    states = [server.initial_state()]
    states += [state for state, _ in server.rounds(clients, states[0])]
    return [Round(one.params, two.params) for one, two in pairwise(states)]


def centralised(sent: Tensor, number: int, momentum: float) -> Tensor:
    """Train as one would without any federation, in the same order of examples."""
    model, examples = mlp(), some_examples()
    nn.utils.vector_to_parameters(sent.clone(), model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=momentum)
    order = torch_generator(derive(3, "batches", number, 0))
    for _ in range(2):
        for rows in torch.randperm(40, generator=order).split(7):
            optimizer.zero_grad()
            batch = examples.take(rows)
            functional.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_client_with_everything_follows_centralised_sgd_to_one_ulp_a_round(momentum):
    """The delta is why it is not zero ulp.

    The client sends ``d = fl(trained - sent)`` and the server adds ``fl(sent + d)``. The
    subtraction is off by at most half an ulp of the delta. The delta is less than twice as large as
    ``m = max(|sent|, |trained|)``, so that is at most one ulp of m; and since ``trained +- ulp(m)``
    are floats themselves, rounding the sum cannot take it any further away.
    """
    for number, one in enumerate(federated(momentum), start=1):
        trained = centralised(one.sent, number, momentum)
        largest = torch.maximum(one.sent.abs(), trained.abs())
        ulp = torch.nextafter(largest, torch.tensor(torch.inf)) - largest
        assert (one.after.double() - trained.double()).abs().le(ulp.double()).all()
        assert not torch.equal(one.after, one.sent)
