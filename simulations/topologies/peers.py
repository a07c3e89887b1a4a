"""Rounds without a server: what all kinds have in common.

A topology says what a round makes of the models; who is asked, what is measured, recorded and
checkpointed is the same for all, and the same as in a federation. The models of single clients are
client state, so that checkpoints hold them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from roundel.client.attempt import attempt_evaluation, attempt_training
from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.data import Examples, Population
from roundel.core.errors import RoundelError
from roundel.core.job import Phase
from roundel.core.messages import (
    BUFFERS,
    INTEGERS,
    PARAMS,
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics, merge
from roundel.core.params import params_sha256
from roundel.core.records import ClientRecord, RoundRecord, RoundReport
from roundel.core.seeds import derive
from roundel.server.admission import Admission
from roundel.server.aggregation import ServerState
from roundel.server.health import health
from roundel.server.loop import Server
from roundel.server.open_round import OpenRound, accepted_record, update_norms

Model = tuple[Tensor, Tensor]
"""The vector ``(D,)`` of a model and its integer buffers."""

Figures = Mapping[str, Any]
"""What a round's line says under ``topology``."""


@dataclass(frozen=True, kw_only=True)
class Advance:
    """What one round made of the models.

    Attributes:
        model: The model that is hashed, evaluated and saved.
        training: The merged training metrics.
        asked: How many learners were to take part.
        completed: How many did.
        clients: Their records, if they are clients.
        failures: Client number to traceback.
        bytes_up: Tensor bytes that clients, nodes or ranks sent.
        bytes_down: Tensor bytes that they received.
        figures: For the round's line.
    """

    model: Model
    training: Metrics
    asked: int
    completed: int
    clients: tuple[ClientRecord, ...] = ()
    failures: Mapping[int, str] = field(default_factory=dict[int, str])
    bytes_up: int = 0
    bytes_down: int = 0
    figures: Figures = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Topology:
    """One way to train, as functions.

    Attributes:
        advance: The state before a round to what the round made of it.
        own: Returns the model that a client is judged by; None if it is everybody's.
        tested: Gives the sums over the global test set, if there is one; None if they are those of
            the model that `Advance` names.
        judged: Gives further figures for the line of a round that was evaluated on it.
    """

    advance: Callable[[ServerState], Advance]
    own: Callable[[int], Model] | None = None
    tested: Callable[[ServerState, Examples], Metrics] | None = None
    judged: Callable[[Examples], Figures] | None = None


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a topology works with.

    Attributes:
        server: Holds the plan, the model and the global test set.
        population: The clients and their data.
        trainer: Trains and evaluates one client after another.
        store: The clients' states.
    """

    server: Server
    population: Population
    trainer: Trainer
    store: ClientStore

    def cohort(self, state: ServerState) -> Sequence[int]:
        """Return the clients that a server would ask in the next round."""
        asked = self.server.open_round(Peers(ground=self), state)
        return asked.machine.terms.cohort

    def phase(self, round: int) -> Phase:
        """Return a client's local training of a round."""
        (phase,) = self.server.plan.phases(round)
        return phase

    def seed(self, purpose: str, round: int, client: int = 0) -> int:
        """Derive a seed for training, the same that a client of a federation has."""
        return derive(self.server.plan.experiment.seed_for("training"), purpose, round, client)

    def steps(self, cohort: Sequence[int], round: int) -> int:
        """Return how many steps a cohort takes in a round, all its clients together."""
        phase, smallest = self.phase(round), self.server.learner.smallest_batch
        if phase.steps is not None:
            return phase.steps * len(cohort)
        sizes = (len(self.population.client(k).train) for k in cohort)
        return sum(phase.step_count(size, smallest) for size in sizes if size)


def union(population: Population) -> Examples:
    """Return the training examples of all clients, in the order of their numbers."""
    parts = [population.client(k).train for k in range(population.size)]
    return Examples(
        torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])
    )


@dataclass(frozen=True, kw_only=True)
class Worked:
    """What became of one client's training.

    Attributes:
        model: What it has now: what it had before if it failed.
        state: Its state.
        record: Its line.
        metrics: Its training metrics.
        traceback: Where it failed, if that was in user code.
    """

    model: Model
    state: ClientState
    record: ClientRecord
    metrics: Metrics
    traceback: str = ""


def work(ground: Ground, round: int, client_id: int, model: Model) -> Worked:
    """Train one client from a model, as in that round of a federation.

    Its update passes the gate that a server has: what is not finite is not taken over.
    """
    server, state = ground.server, ground.store.get(client_id)
    ticket = Ticket(run=server.run, round=round, client_id=client_id)
    params, integers = model
    request = TrainRequest(
        ticket=ticket, base_version=round - 1, params=params, integers=integers, channels={}
    )
    answer, kept = attempt_training(ground.trainer, request, ground.population.client, state)
    if isinstance(answer, ClientFailure):
        return failed(answer, model, state)
    gate = Admission(
        strategy=server.plan.strategy,
        spec=server.learner.spec,
        base_version=round - 1,
        selected=1,
        integers=integers,
    )
    verdict = gate(answer)
    if isinstance(verdict, str):
        record = ClientRecord(round=round, client=client_id, status="rejected", reason=verdict)
        return Worked(model=model, state=state, record=record, metrics=Metrics())
    return Worked(
        model=moved(model, verdict),
        state=kept,
        record=accepted_record(answer, answer, *update_norms([answer])),
        metrics=answer.metrics,
    )


def moved(model: Model, update: ClientUpdate) -> Model:
    """Return a model after one client's update."""
    params, integers = model
    delta = update.channels[PARAMS]
    if BUFFERS in update.channels:
        delta = torch.cat([update.channels[BUFFERS], delta])
    return params + delta, update.channels.get(INTEGERS, integers)


def failed(failure: ClientFailure, model: Model, state: ClientState) -> Worked:
    """Return what became of training that failed: the model and the state stay as they were."""
    record = ClientRecord(
        round=failure.ticket.round,
        client=failure.ticket.client_id,
        status="failed",
        reason=failure.error,
        location=failure.location,
    )
    return Worked(
        model=model,
        state=state,
        record=record,
        metrics=Metrics(),
        traceback=failure.traceback,
    )


def summed(model: Model, worked: Sequence[Worked], **more: Any) -> Advance:  # noqa: ANN401
    """Return what a round made of the models of those that worked.

    Args:
        model: The model that is hashed, evaluated and saved.
        worked: One for each client that was to take part.
        more: Further fields.
    """
    return Advance(
        model=model,
        training=merge(each.metrics for each in worked),
        asked=len(worked),
        completed=sum(each.record.status == "accepted" for each in worked),
        clients=tuple(each.record for each in worked),
        failures={each.record.client: each.traceback for each in worked if each.traceback},
        **more,
    )


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The clients of a topology, for a server that only evaluates them.

    Attributes:
        ground: What there is.
        own: See `Topology.own`.
    """

    ground: Ground
    own: Callable[[int], Model] | None = None

    @property
    def size(self) -> int:
        """N, the population."""
        return self.ground.population.size

    def train(self, open_round: OpenRound) -> None:
        """Refuse: a topology trains its clients itself."""
        raise RoundelError("there is no server here that could ask clients to train")

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the clients final."""
        self.ground.store.commit(accepted)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Evaluate clients, each with its own model if it has one."""
        return [self._evaluate(request) for request in requests]

    def _evaluate(self, request: EvaluateRequest) -> Evaluation | ClientFailure:
        client_id = request.ticket.client_id
        if self.own is not None:
            params, integers = self.own(client_id)
            request = replace(request, params=params, integers=integers)
        ground = self.ground
        return attempt_evaluation(
            ground.trainer, request, ground.population.client, ground.store.get(client_id)
        )

    def states(self) -> Mapping[int, ClientState]:
        """Return all committed client states."""
        return self.ground.store.committed


def rounds(
    server: Server,
    peers: Peers,
    topology: Topology,
    state: ServerState,
    past: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[ServerState, RoundReport]]:
    """Run the rounds that are left; yield the state and the report after each.

    Args:
        server: Evaluates, and decides when to stop.
        peers: The clients.
        topology: How they train.
        state: Where to begin.
        past: What is recorded about the rounds up to it.
    """
    lines = list(past)
    stopped = bool(lines) and isinstance(lines[-1].get("stopped"), str)
    while state.round < server.plan.experiment.rounds and not stopped:
        began = server.clock()
        advance = topology.advance(state)
        params, integers = advance.model
        state = ServerState(round=state.round + 1, params=params, integers=integers)
        judged, own = server.judging.judge(peers, state, _record(state, advance), lines, None)
        if judged.metrics and server.test is not None and topology.judged is not None:
            judged = replace(
                judged, topology={**(judged.topology or {}), **topology.judged(server.test)}
            )
        record = replace(judged, seconds=round(server.clock() - began, 6))
        report = RoundReport(
            record=record,
            clients=(*advance.clients, *(own.records(state.round) if own else ())),
            failures={**(own.tracebacks() if own else {}), **advance.failures},
        )
        lines.append(record.line())
        stopped = record.stopped is not None
        yield state, report


def _record(state: ServerState, advance: Advance) -> RoundRecord:
    return RoundRecord(
        round=state.round,
        metrics={},
        train_loss=advance.training.means().get("loss"),
        cohort=advance.asked,
        completed=advance.completed,
        failures=advance.asked - advance.completed,
        bytes_up=advance.bytes_up,
        bytes_down=advance.bytes_down,
        params_sha256=params_sha256(state.params, state.integers),
        health=health(advance.clients, advance.training),
        topology=dict(advance.figures) or None,
        seconds=0.0,
    )
