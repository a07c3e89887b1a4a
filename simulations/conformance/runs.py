"""Laws of whole runs, through the server's own loop."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import isfinite, log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.errors import RoundAborted, RoundelError
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.server.aggregation import ServerState, completed
from roundel.server.checkpoints import load_checkpoint, save_checkpoint
from roundel.server.loop import Server
from roundel.simulations.conformance.observed import difference
from roundel.simulations.conformance.subject import (
    Broken,
    Doubtful,
    Subject,
    check_finite,
    sentence_of,
)
from roundel.simulations.conformance.trial import (
    ROUNDS,
    RUN,
    Trial,
    secret_of_clients,
    secret_of_server,
)
from roundel.simulations.executor import LoopClients
from roundel.simulations.prepare import Pieces, Simulation, prepare
from roundel.simulations.tasks.digits import CLASSES, SIDE, digits

_DIVERGED = 10.0 * log(CLASSES)
"""Ten times the loss of a model that knows nothing."""


def resumes(subject: Subject) -> None:
    """A run goes on from a checkpoint with the same bits."""
    whole = Trial(subject.fresh()).simulation
    server, clients = _server(whole), _clients(whole)
    rounds = _reported(server.rounds(clients, server.initial_state()))
    middle = next(rounds)
    fingerprint = whole.learner.spec.fingerprint
    with (
        TemporaryDirectory() as folder,
        RunDirectory.create(Path(folder) / "run", whole.plan.experiment, {"run_id": RUN}) as run,
    ):
        save_checkpoint(run, middle, clients.states(), fingerprint)
        loaded = load_checkpoint(run.path, fingerprint)
    if loaded is None:
        raise Broken("no checkpoint can be read back")
    again = Trial(subject.fresh()).simulation
    resumed = _clients(again, loaded[1])
    after = list(_reported(_server(again).rounds(resumed, loaded[0])))[-1]
    expected = (list(rounds)[-1], clients.states())
    # A checkpoint keeps nothing of a link without state, which is then absent or empty.
    if where := difference(_lean(*expected), _lean(after, resumed.states()), "the end"):
        raise Broken(
            f"{ROUNDS} rounds, and {ROUNDS} with a checkpoint between, end elsewhere: {where}; "
            "something is kept outside the states"
        )


def _lean(state: ServerState, clients: Mapping[int, Any]) -> tuple[ServerState, dict[int, Any]]:
    transforms = {name: each for name, each in state.transforms.items() if each}
    return replace(state, transforms=transforms), dict(clients)


def _server(simulation: Simulation) -> Server:
    return simulation.server(RUN, secret_of_server)


def _clients(simulation: Simulation, states: Mapping[int, Any] | None = None) -> LoopClients:
    trainer = Trainer(simulation.plan, simulation.learner, secret_of_clients)
    return LoopClients(trainer, simulation.population, ClientStore(states))


def _reported(rounds: Iterable[tuple[ServerState, RoundReport]]) -> Iterator[ServerState]:
    """Pass on the states of rounds in which every client that answered was accepted."""
    for state, report in rounds:
        for record in report.clients:
            if record.status in ("failed", "rejected"):
                raise Broken(f"round {record.round}, client {record.client}: {record.reason}")
        yield state


def learns(subject: Subject) -> None:
    """Three rounds on the digits neither fail nor diverge."""
    experiment = Experiment.model_validate(
        {
            "rounds": 3,
            "partition": {"kind": "iid", "clients": 8},
            "cohort": {"size": 7},
            "client": {"steps": 2, "batch_size": 32},
            "evaluation": {"clients": 3, "every": 3},
        }
    )
    try:
        simulation = prepare(experiment, Pieces(strategy=subject.fresh()))
    except RoundelError:  # it asks for a model with a norm, say
        task = replace(digits(), model=_DigitsNet)
        simulation = prepare(experiment, Pieces(task=task, strategy=subject.fresh()))
    server, clients = _server(simulation), _clients(simulation)
    start = server.initial_state()
    before = _loss(simulation, start)
    losses: list[float | None] = []
    try:
        for state, report in server.rounds(clients, start):
            for record in report.clients:
                if record.status in ("failed", "rejected"):
                    raise Broken(f"round {record.round}, client {record.client}: {record.reason}")
            check_finite(state, f"after round {state.round}")
            losses.append(report.record.metrics.get("loss"))
    except RoundAborted as aborted:
        raise Broken(sentence_of(aborted)) from aborted
    loss = losses[-1]
    if loss is None or not isfinite(loss) or loss > _DIVERGED:
        raise Broken(f"the loss on the test set is {loss}; a model that knows nothing has 2.3")
    if loss >= before:
        raise Doubtful(
            f"the loss on the test set is {loss:.6g} after 3 rounds and was {before:.6g} before: "
            "look at signs and at learning rates, if it is to learn so fast"
        )


def _loss(simulation: Simulation, state: ServerState) -> float:
    """Return the loss on the test set."""
    learner = simulation.learner
    whole = completed(simulation.plan.strategy, learner, state)
    assert simulation.test is not None  # noqa: S101 - the digits have one
    return learner.evaluate(*whole, simulation.test).means()["loss"]


class _DigitsNet(nn.Sequential):
    def __init__(self) -> None:
        pixels = SIDE * SIDE
        super().__init__(
            nn.Linear(pixels, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, CLASSES)
        )
