"""Compute the rounds of a recorded run again, in memory: nothing is written to its directory.

Clients whose updates did not count in the run stay away, keys of noise are those that the run has
kept, and every round must give the recorded hash.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.config import EvaluationConfig, Experiment, StopConfig
from roundel.core.errors import RunDirectoryError, RunFailed
from roundel.core.records import RoundReport
from roundel.core.runfiles import CLIENTS, METRICS, read_lines, read_run, read_secrets
from roundel.core.threads import intra_op_threads
from roundel.server.aggregation import ServerState
from roundel.server.loop import Clients, Server
from roundel.simulations.blocks import narrowed
from roundel.simulations.devices import check_present, device_of, repeatable
from roundel.simulations.division import check_at_hand
from roundel.simulations.engine import Engine, Legacy, clients_of
from roundel.simulations.prepare import Pieces, Simulation, prepare_again
from roundel.simulations.topologies.checks import check_star

_NEVER = 2**62


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a run directory says about a run that is to be computed again.

    Attributes:
        path: The directory.
        experiment: What it ran.
        environment: On what.
    """

    path: Path
    experiment: Experiment
    environment: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, what: str) -> "Recorded":
        """Read a run, and refuse one that cannot be computed again here.

        Args:
            path: The run directory.
            what: What needs it, such as ``"a replay"``.

        Raises:
            ConfigError: It has no server, or its examples lie elsewhere.
            RunDirectoryError: The directory is not a run's, or it is damaged.
        """
        experiment, environment = read_run(path)
        check_star(experiment, what)
        check_at_hand(experiment, what)
        return cls(path=path, experiment=experiment, environment=environment)

    @property
    def last_round(self) -> int:
        """The last round that it recorded; 0 if there is none."""
        return max((line["round"] for line in read_lines(self.path / METRICS)), default=0)


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A recorded run with everything at hand that its rounds depend on.

    Attributes:
        path: The run directory.
        engine: How it was computed.
        device: Where.
        simulation: The experiment with its data; nothing is evaluated before the last round.
        server: The server's side.
        trainer: Trains clients.
    """

    path: Path
    engine: Engine
    device: torch.device
    simulation: Simulation
    server: Server
    trainer: Trainer

    @classmethod
    def of(
        cls, recorded: Recorded, through: int, pieces: Pieces = Pieces(), *, load_test: bool
    ) -> "Rerun":
        """Bring back what the run began with.

        Args:
            recorded: The run.
            through: The last round that is to come out as it did.
            pieces: The same pieces that the run began with.
            load_test: Whether global test examples are wanted.

        Raises:
            ConfigError: The run was computed on a device that is not here.
            RunDirectoryError: What it began with is missing, or has changed.
        """
        path, environment = recorded.path, recorded.environment
        engine = Engine.recorded(environment["engine"])
        check_present(engine.device, path)
        device = device_of(engine.device)
        experiment = _unjudged(recorded.experiment)
        prepared = prepare_again(path, environment, experiment, pieces, load_test=load_test)
        simulation = prepared.on(device)
        secrets = partial(_secret, path, read_secrets(path))
        # Who fails in a block decides how the others are trained, so there all that failed fail
        # again.
        absences = None if engine.executor == "vectorized" else _AsRecorded(path, through)
        return cls(
            path=path,
            engine=engine,
            device=device,
            simulation=simulation,
            server=simulation.server(environment["run_id"], secrets, absences),
            trainer=Trainer(simulation.plan, simulation.learner, partial(secrets, 0)),
        )

    def store(self, states: Mapping[int, ClientState]) -> ClientStore:
        """Return a place for the states of clients that begins with these."""
        limit = self.simulation.plan.experiment.engine.state_memory_bytes
        return ClientStore(states, limit_bytes=limit)

    def clients(self, store: ClientStore) -> Clients:
        """Return the population of the run, with these states."""
        legacy = Legacy(narrowed=narrowed(read_lines(self.path / METRICS)))
        return clients_of(self.simulation, self.engine, self.trainer, store, legacy=legacy)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute as the run did: on as many threads, with results that come out the same."""
        with intra_op_threads(self.engine.threads), repeatable(self.device):
            yield

    def rounds(
        self, clients: Clients, start: ServerState
    ) -> Iterator[tuple[ServerState, RoundReport]]:
        """Yield the state and the report after each round from a state on.

        Raises:
            RunFailed: A round came out with another hash than the recorded one.
        """
        hashes = {line["round"]: line["params_sha256"] for line in read_lines(self.path / METRICS)}
        for state, report in self.server.rounds(clients, start):
            if report.record.params_sha256 != hashes.get(state.round):
                raise RunFailed(
                    f"round {state.round} came out with another parameter hash than {self.path} "
                    "records: code, libraries or processor differ from those of the run; replay "
                    "where it ran"
                )
            yield state, report


def _secret(path: Path, secrets: Mapping[int, bytes], round: int) -> bytes:
    if round not in secrets:
        whose = "its clients" if round == 0 else f"round {round}"
        raise RunDirectoryError(
            f"{path} does not hold the key of the noise of {whose}, which nodes keep to "
            "themselves; what depends on it cannot be computed again"
        )
    return secrets[round]


class _AsRecorded:
    """Keeps clients away whose updates did not count in the run."""

    def __init__(self, path: Path, through: int) -> None:
        self._accepted = {
            (line["round"], line["client"])
            for line in read_lines(path / CLIENTS)
            if line["round"] <= through and line["status"] == "accepted" and "stage" not in line
        }

    def __call__(self, number: int, client_id: int) -> str | None:
        counted = (number, client_id) in self._accepted
        return None if counted else "its update did not count in the run"


def _unjudged(experiment: Experiment) -> Experiment:
    """Leave out evaluations, on which no parameter depends."""
    never = EvaluationConfig(every=_NEVER, clients_every=0, clients=0)
    return experiment.model_copy(update={"evaluation": never, "stop": StopConfig()})
