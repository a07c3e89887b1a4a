"""Run an experiment's rounds in a run directory: record, checkpoint, resume."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from roundel.core.behind import Behind
from roundel.core.clientstate import ClientState
from roundel.core.errors import RoundAborted, RunFailed
from roundel.core.params import params_sha256
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.core.runfiles import METRICS, read_lines
from roundel.server.aggregation import ServerState, completed
from roundel.server.checkpoints import load_checkpoint, oldest_checkpoint, save_checkpoint
from roundel.server.loop import Clients, Clock, Server

_SHARE = 20  # a checkpoint that took t seconds is followed by at least 20 t without one

Rounds = Iterator[tuple[ServerState, RoundReport]]

OnRound = Callable[[RoundReport], None]
"""Called after each round."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins or goes on.

    Attributes:
        state: The server's state.
        clients: The committed client states that belong to it.
        past: What is recorded about the rounds up to it.
        on_checkpoint: If given, a checkpoint follows each round from there on, wherever client
            states are, and this is told the oldest round to which the run can go back then.
    """

    state: ServerState
    clients: Mapping[int, ClientState]
    past: Sequence[Mapping[str, Any]] = ()
    on_checkpoint: Callable[[int], None] | None = None


def find_start(server: Server, directory: RunDirectory, *, states_elsewhere: bool = False) -> Start:
    """Return the newest checkpoint, or the very beginning if none belongs to a recorded round.

    Args:
        server: Whose state it is.
        directory: The run.
        states_elsewhere: Whether a checkpoint will do whose client states are with their nodes.

    Raises:
        RunFailed: Nodes are where the checkpoint is, and the strategy cannot go on from it.
    """
    found = _newest(server, directory, states_elsewhere=states_elsewhere)
    return found or Start(state=server.initial_state(), clients={})


def _newest(server: Server, directory: RunDirectory, *, states_elsewhere: bool) -> Start | None:
    """Return the newest checkpoint that will do; see `find_start`."""
    found = load_checkpoint(
        directory.path, server.learner.spec.fingerprint, states_elsewhere=states_elsewhere
    )
    if found is None:
        return None
    state, clients = found
    missing = server.plan.strategy.missing(state.transforms)
    if missing and not states_elsewhere:
        return None
    if directory.hashes.get(state.round) != params_sha256(state.params, state.integers):
        return None
    past = list(read_lines(directory.path / METRICS))[: state.round]
    is_over = state.round == server.plan.experiment.rounds or past[-1].get("stopped")
    if missing and not is_over:
        raise RunFailed(
            f"{server.plan.experiment.strategy.title} cannot go on in round {state.round + 1} from "
            f"what was written down: {missing}; begin a new run"
        )
    return Start(state=state, clients=clients, past=past)


def run_rounds(
    server: Server,
    clients: Clients,
    directory: RunDirectory,
    start: Start,
    on_round: OnRound,
    rounds: Rounds | None = None,
) -> ServerState:
    """Run what is left of an experiment and leave the final model in its directory.

    A round that an earlier process has recorded and that comes after the checkpoint is computed
    again; its hash must be the recorded one, and its line stays as it was.

    A checkpoint that follows each round is written while the next round is under way: what that
    round needs to be computed again is forgotten only once the checkpoint is durable.

    Args:
        server: Gives the rounds, unless others are given.
        clients: The far side.
        directory: Where everything is written down.
        start: Where to begin.
        on_round: Called after each round.
        rounds: The rounds from `start` on, where it is not the server that makes them.

    Raises:
        RunFailed: Too few clients answered, or a recomputed round gave another hash.
    """
    pace = _CheckpointPace(server.clock, directory.experiment.checkpoint.every_s)
    state = start.state
    if rounds is None:
        rounds = server.rounds(clients, start.state, start.past)
    fingerprint = server.learner.spec.fingerprint

    def save(state: ServerState, states: Mapping[int, ClientState] | None) -> None:
        save_checkpoint(directory, state, states, fingerprint)
        if start.on_checkpoint is not None:
            start.on_checkpoint(oldest_checkpoint(directory.path))

    with Behind("checkpoints") as behind:
        for state, report in _recording_aborts(rounds, directory):
            behind.wait()
            recorded = directory.hashes.get(state.round)
            if recorded is None:
                directory.add_round(report)
            elif recorded != report.record.params_sha256:
                raise RunFailed(_disagreement(directory, report, recorded))
            on_round(replace(report, recomputed=recorded is not None))
            states = clients.states()
            last = state.round == server.plan.experiment.rounds or report.record.stopped
            if start.on_checkpoint is not None:
                behind.do(partial(save, state, states))
            elif states is not None and (pace.due() or last):
                began = server.clock()
                save(state, states)
                pace.took(server.clock() - began)
    directory.save_model(final_model(server, state).state_dict())
    return state


def _recording_aborts(rounds: Rounds, directory: RunDirectory) -> Rounds:
    """Yield the rounds; if one is aborted, write down what became of its clients."""
    try:
        yield from rounds
    except RoundAborted as aborted:
        directory.add_clients(aborted.clients, aborted.failures)
        raise


class _CheckpointPace:
    """Checkpoints by time, and rarer when they are slow."""

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._next_s = clock() + every_s

    def due(self) -> bool:
        return self._clock() >= self._next_s

    def took(self, seconds: float) -> None:
        self._next_s = self._clock() + max(self._every_s, _SHARE * seconds)


def final_model(server: Server, state: ServerState) -> nn.Module:
    """Return the model that a state reports, new, under its own names and in its own dtypes."""
    learner = server.learner
    model = server.plan.task.new_model(server.plan.experiment.seed_for("model"))
    model.load_state_dict(learner.model.state_dict())  # what is frozen is in no vector
    learner.spec.write(model, *completed(server.plan.strategy, learner, state))
    return model


def _disagreement(directory: RunDirectory, report: RoundReport, recorded: str) -> str:
    return (
        f"round {report.record.round} was recomputed and gave the parameter hash "
        f"{report.record.params_sha256[:12]}, but {recorded[:12]} is recorded: code, libraries or "
        f"processor differ from those in {directory.path}/environment.json; resume where the run "
        "began, or start a new one"
    )
