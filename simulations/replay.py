"""Run one client of one round again, in this process, to look at it with a debugger.

Everything that the client depended on comes back: the server's state from the nearest checkpoint
before the round, computed on from there with exactly the updates that counted in the run; its own
state; its examples; its seeds. If it failed, it fails again, here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from roundel.client.attempt import Answer
from roundel.client.trainer import Tamper, Trainer
from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.config import EvaluationConfig, Experiment, StopConfig
from roundel.core.data import Population
from roundel.core.errors import ConfigError, RunDirectoryError, RunFailed
from roundel.core.messages import ClientUpdate, Ticket, TrainRequest, update_blake3
from roundel.core.runfiles import CLIENTS, METRICS, read_lines, read_run, read_secrets
from roundel.server.aggregation import ServerState
from roundel.server.checkpoints import load_checkpoint
from roundel.server.loop import Clients, Server
from roundel.server.run import OnRound
from roundel.simulations.attacks.adversary import Adversary
from roundel.simulations.blocks import narrowed
from roundel.simulations.clients import BlockClients
from roundel.simulations.devices import check_present, device_of, repeatable
from roundel.simulations.division import check_at_hand
from roundel.simulations.engine import Engine, Legacy, clients_of
from roundel.simulations.prepare import Pieces, prepare_again
from roundel.simulations.simulate import intra_op_threads
from roundel.simulations.topologies.checks import check_star

_NEVER = 2**62
_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of training a client again.

    Attributes:
        recorded: The client's line in ``clients.jsonl``.
        update: What it would send now.
        update_blake3: The hash of that.
    """

    recorded: Mapping[str, Any]
    update: ClientUpdate
    update_blake3: str

    @property
    def matches(self) -> bool | None:
        """Whether the update is the recorded one; None if the run recorded none."""
        recorded = self.recorded.get("update_blake3")
        return None if recorded is None else recorded == self.update_blake3


def _alone() -> Answer | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A client just before its training.

    Attributes:
        recorded: Its line in ``clients.jsonl``.
        began: After which round the computation began: that of a checkpoint, or 0.
        request: What the server sends it.
        state: Its own state.
        population: All clients.
        tamper: What the client does to its update, if it attacks.
        trainer: Trains it.
        threads: With how many threads inside one operation.
        device: Where.
        block: Trains it together with those with whom it was trained in the run, if it was not
            trained by itself.
    """

    recorded: Mapping[str, Any]
    began: int
    request: TrainRequest
    state: ClientState
    population: Population
    tamper: Tamper | None
    trainer: Trainer
    threads: int
    device: torch.device
    block: Callable[[], Answer | None] = _alone

    def train(self) -> Replay:
        """Train the client; whatever the user's code raises is not caught."""
        with intra_op_threads(self.threads), repeatable(self.device):
            answer = self.block()
            if answer is not None and isinstance(answer[0], ClientUpdate):
                update = answer[0]
            else:
                examples = self.population.client(self.request.ticket.client_id).train
                update, _ = self.trainer.train(self.request, examples, self.state, self.tamper)
        return Replay(recorded=self.recorded, update=update, update_blake3=update_blake3(update))


def replay(run: Path | str, round: int, client: int, *, pieces: Pieces = Pieces()) -> Replay:
    """Train one client of one round of a run again; see `restage`.

    Raises:
        Exception: Whatever the user's code raises, so that a debugger stops there.
    """
    return restage(run, round, client, pieces=pieces).train()


def restage(
    run: Path | str,
    round: int,
    client: int,
    *,
    pieces: Pieces = Pieces(),
    on_round: OnRound | None = None,
) -> Scene:
    """Bring back everything that one client of one round depended on.

    Nothing is written to the run, which may be going on meanwhile.

    Args:
        run: The run directory.
        round: The round, from 1.
        client: The client's number; it must have been in the round's cohort.
        pieces: The same pieces that the run began with.
        on_round: Called after each round that is computed again on the way.

    Raises:
        ConfigError: That client was not in that round, or what it sent was made from the updates of
            others.
        RunDirectoryError: The directory is not a run's, or it is damaged.
        RunFailed: A round on the way came out with another hash than the recorded one.
    """
    path = Path(run)
    experiment, environment = read_run(path)
    check_star(experiment, "a replay")
    check_at_hand(experiment, "a replay")
    recorded = _recorded(path, round, client)
    engine = Engine.recorded(environment["engine"])
    check_present(engine.device, path)
    device = device_of(engine.device)
    prepared = prepare_again(path, environment, _unjudged(experiment), pieces, load_test=False)
    simulation = prepared.on(device)
    _check_alone(simulation.adversary, round, client)
    secrets = partial(_secret, path, read_secrets(path))
    # Who fails in a block decides how the others are trained, so there all that failed fail again.
    absences = None if engine.executor == "vectorized" else _AsRecorded(path, round)
    server = simulation.server(environment["run_id"], secrets, absences)
    trainer = Trainer(simulation.plan, simulation.learner, partial(secrets, 0))
    with intra_op_threads(engine.threads), repeatable(device):
        legacy = Legacy(narrowed=narrowed(read_lines(path / METRICS)))
        make = partial(clients_of, simulation, engine, trainer, legacy=legacy)
        began, state, store = _state_before(path, server, make, round, on_round)
        clients = make(store)
    ticket = Ticket(
        run=server.run, round=round, client_id=client, attempt=recorded.get("attempt", 0)
    )
    opened = server.open_round(clients, state)
    block: Callable[[], Answer | None] = _alone
    if isinstance(clients, BlockClients) and engine.executor == "vectorized":
        block = partial(_in_its_block, clients, server, state, client)
    return Scene(
        recorded=recorded,
        began=began,
        request=opened.request(ticket),
        state=store.get(client),
        population=simulation.clients,
        tamper=simulation.adversary.tamper(ticket) if simulation.adversary else None,
        trainer=trainer,
        threads=engine.threads,
        device=device,
        block=block,
    )


def _in_its_block(
    clients: BlockClients, server: Server, state: ServerState, client: int
) -> Answer | None:
    return clients.answer(server.open_round(clients, state), client)


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

    def __init__(self, path: Path, before: int) -> None:
        self._accepted = {
            (line["round"], line["client"])
            for line in read_lines(path / CLIENTS)
            if line["round"] < before and line["status"] == "accepted" and "stage" not in line
        }

    def __call__(self, number: int, client_id: int) -> str | None:
        counted = (number, client_id) in self._accepted
        return None if counted else "its update did not count in the run"


def _state_before(
    path: Path,
    server: Server,
    make: Callable[[ClientStore], Clients],
    round: int,
    on_round: OnRound | None,
) -> tuple[int, ServerState, ClientStore]:
    """Return where it began, and the state of the server and of the clients before a round."""
    found = load_checkpoint(path, server.learner.spec.fingerprint, before=round)
    start, states = found or (server.initial_state(), {})
    store = ClientStore(states, limit_bytes=server.plan.experiment.engine.state_memory_bytes)
    if start.round == round - 1:
        return start.round, start, store
    hashes = {line["round"]: line["params_sha256"] for line in read_lines(path / METRICS)}
    clients = make(store)
    for state, report in server.rounds(clients, start):
        if report.record.params_sha256 != hashes.get(state.round):
            raise RunFailed(
                f"round {state.round} came out with another parameter hash than {path} records: "
                "code, libraries or processor differ from those of the run; replay where it ran"
            )
        if on_round is not None:
            on_round(replace(report, recomputed=True))
        if state.round == round - 1:
            return start.round, state, store
    raise ConfigError(
        f"{path} has no round {round}: it was to end with {server.plan.experiment.rounds}"
    )


def _recorded(path: Path, round: int, client: int) -> Mapping[str, Any]:
    """Return a client's line about its training in a round."""
    cohort: dict[int, Mapping[str, Any]] = {
        line["client"]: line
        for line in read_lines(path / CLIENTS)
        if line["round"] == round and "stage" not in line
    }
    if not cohort:
        raise ConfigError(f"{path} records no round {round}; `roundel show {path}` lists them")
    if client not in cohort:
        some = ", ".join(str(other) for other in list(cohort)[:_NAMED])
        more = f" and {len(cohort) - _NAMED} more" if len(cohort) > _NAMED else ""
        raise ConfigError(
            f"client {client} was not in the cohort of round {round}, which was {some}{more}; "
            "replay one of those"
        )
    return cohort[client]


def _check_alone(adversary: Adversary | None, round: int, client: int) -> None:
    """Refuse a client whose update cannot be had without those of others."""
    if adversary is None or not adversary.plots or client not in adversary.clients:
        return
    raise ConfigError(
        f"client {client} was malicious, and what it sent in round {round} "
        f"({adversary.attack.name}) was made from the updates of several clients of that round; "
        "replay one of the honest ones"
    )


def _unjudged(experiment: Experiment) -> Experiment:
    """Leave out evaluations, on which no parameter depends."""
    never = EvaluationConfig(every=_NEVER, clients_every=0, clients=0)
    return experiment.model_copy(update={"evaluation": never, "stop": StopConfig()})
