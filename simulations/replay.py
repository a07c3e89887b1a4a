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
from roundel.core.data import Population
from roundel.core.errors import ConfigError
from roundel.core.messages import ClientUpdate, Ticket, TrainRequest, update_blake3
from roundel.core.runfiles import CLIENTS, read_lines
from roundel.core.threads import intra_op_threads
from roundel.server.aggregation import ServerState
from roundel.server.checkpoints import load_checkpoint
from roundel.server.loop import Server
from roundel.server.run import OnRound
from roundel.simulations.attacks.adversary import Adversary
from roundel.simulations.clients import BlockClients
from roundel.simulations.devices import repeatable
from roundel.simulations.prepare import Pieces
from roundel.simulations.recompute import Recorded, Rerun

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
    source = Recorded.read(path, "a replay")
    recorded = _recorded(path, round, client)
    rerun = Rerun.of(source, round - 1, pieces, load_test=False)
    simulation, server, engine = rerun.simulation, rerun.server, rerun.engine
    _check_alone(simulation.adversary, round, client)
    with rerun.computing():
        began, state, store = _state_before(rerun, round, on_round)
        clients = rerun.clients(store)
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
        trainer=rerun.trainer,
        threads=engine.threads,
        device=rerun.device,
        block=block,
    )


def _in_its_block(
    clients: BlockClients, server: Server, state: ServerState, client: int
) -> Answer | None:
    return clients.answer(server.open_round(clients, state), client)


def _state_before(
    rerun: Rerun, round: int, on_round: OnRound | None
) -> tuple[int, ServerState, ClientStore]:
    """Return where it began, and the state of the server and of the clients before a round."""
    path, server = rerun.path, rerun.server
    found = load_checkpoint(path, server.learner.spec.fingerprint, before=round)
    start, states = found or (server.initial_state(), {})
    store = rerun.store(states)
    if start.round == round - 1:
        return start.round, start, store
    for state, report in rerun.rounds(rerun.clients(store), start):
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
