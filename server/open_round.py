"""A round in progress: the state machine, the gate and the accumulators together."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.messages import (
    PARAMS,
    ClientFailure,
    ClientUpdate,
    Ticket,
    TrainRequest,
    update_blake3,
)
from roundel.core.metrics import Metrics, merge
from roundel.core.params import ParamSpec
from roundel.core.records import ClientRecord
from roundel.core.rows import norms, rows_of, stretches
from roundel.server.admission import Admission
from roundel.server.aggregation import Accumulators, ServerState, broadcast_channels
from roundel.server.round import (
    Accept,
    Assign,
    ClientFailed,
    ClientLost,
    Event,
    Instruction,
    RoundMachine,
    RoundTerms,
    Status,
    UpdateArrived,
    UpdateJudged,
)
from roundel.strategies.compose import Strategy
from roundel.strategies.sites import Told

Absence = Callable[[int], str | None]
"""A client's number to the reason why it will not answer, or None if it takes part."""


def nobody(_client_id: int) -> None:
    """Say that every client takes part."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one client's answer, without its tensors.

    Attributes:
        ticket: That of the answer.
        record: Its line, if it counts.
        metrics: Its training metrics, if it counts.
        reason: Why it was refused; empty if it was not.
        failure: The failure that it reports instead of an update.
        bytes_up: Tensor bytes that have arrived.
    """

    ticket: Ticket
    record: ClientRecord | None = None
    metrics: Metrics = Metrics()
    reason: str = ""
    failure: ClientFailure | None = None
    bytes_up: int = 0


class OpenRound:
    """One round from its first assignment to its end, for whoever carries the messages.

    A carrier calls `start`, does what the instructions say, and feeds what happens to `handle`
    until `ended` is set. It may hand requests to clients in any order and in parallel.

    A carrier that has many answers at once, some of them elsewhere, calls `admit` where answers
    are, which aggregates them, and feeds the verdicts on all of them to `settle`. It must not admit
    more than `wanted` answers at a time: all that pass the gate count.

    Attributes:
        machine: The round's state.
        accumulators: The sums of what was accepted.
        channels: What goes to the cohort besides the parameters.
        broadcast_bytes: Tensor bytes that one client is sent.
        bytes_up: Tensor bytes that have arrived.
        bytes_down: Tensor bytes that were assigned, or sent to find out whom to select.
        topology: What the carrier has to say about its links, for the round's line.
        width: The most clients that it trained at once, if these are fewer than the run began with.
    """

    def __init__(
        self,
        terms: RoundTerms,
        strategy: Strategy,
        spec: ParamSpec,
        state: ServerState,
        absence: Absence = nobody,
        *,
        malicious: Collection[int] = (),
    ) -> None:
        self.channels = broadcast_channels(strategy, state)
        self._gate = Admission(
            strategy=strategy,
            spec=spec,
            base_version=state.round,
            selected=max(1, len(terms.cohort)),
            broadcast=self.channels,
            integers=state.integers,
        )
        self.machine = RoundMachine(terms, self._gate)
        self.accumulators = Accumulators(strategy, spec)
        self.broadcast_bytes = _nbytes(
            {"params": state.params, "integers": state.integers, **self.channels}
        )
        self.bytes_up = 0
        self.bytes_down = 0
        self.topology: Mapping[str, Any] = {}
        self.width: int | None = None
        self._strategy = strategy
        self._state = state
        self._absence = absence
        self._malicious = malicious
        self._records: dict[int, ClientRecord] = {}
        self._metrics: dict[int, Metrics] = {}

    @property
    def ended(self) -> Instruction | None:
        """`Commit` or `Abort` once the round is over."""
        return self.machine.ended

    @property
    def objection(self) -> str:
        """What the strategy's rules say to the updates accepted; empty if they are enough."""
        try:
            self._strategy.check_cohort(len(self.accepted()))
        except CompositionError as error:
            return str(error)
        return ""

    def start(self, now_s: float) -> list[Instruction]:
        """Open the round. A client that is absent on purpose is asked, and lost at once."""
        instructions = self._follow(self.machine.start(now_s))
        present: list[Instruction] = []
        for instruction in instructions:
            client_id = instruction.ticket.client_id if isinstance(instruction, Assign) else None
            reason = None if client_id is None else self._absence(client_id)
            if client_id is None or reason is None:
                present.append(instruction)
            else:
                present += self.handle(ClientLost(client_id, reason))
        return present

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event; accepted updates are aggregated before this returns."""
        if isinstance(event, UpdateArrived):
            self.bytes_up += _nbytes(event.update.channels)
            return self._follow(self.machine.handle(event), event.update)
        return self._follow(self.machine.handle(event))

    @property
    def wanted(self) -> int:
        """How many more updates the round takes."""
        return self.machine.wanted

    def admit(self, answers: Sequence[ClientUpdate | ClientFailure]) -> list[Verdict]:
        """Judge answers to open assignments, and aggregate those that count."""
        together = stretches(len(answers), self._state.params.numel())
        return [verdict for those in together for verdict in self._admitted(answers[those])]

    def _admitted(self, answers: Sequence[ClientUpdate | ClientFailure]) -> Iterator[Verdict]:
        """Do the same for answers whose tensors are copied to one place."""
        sent = [answer for answer in answers if isinstance(answer, ClientUpdate)]
        judged = self._gate.judged(sent)
        accepted = [update for update in judged if not isinstance(update, str)]
        if accepted:
            self.accumulators.add_all(accepted)
        lengths, verdicts = iter(update_norms(accepted)), iter(judged)
        for answer in answers:
            if isinstance(answer, ClientFailure):
                yield Verdict(ticket=answer.ticket, failure=answer)
                continue
            arrived, verdict = _nbytes(answer.channels), next(verdicts)
            if isinstance(verdict, str):
                yield Verdict(ticket=answer.ticket, reason=verdict, bytes_up=arrived)
                continue
            yield Verdict(
                ticket=answer.ticket,
                record=accepted_record(verdict, answer, next(lengths)),
                metrics=verdict.metrics,
                bytes_up=arrived,
            )

    def settle(self, verdicts: Iterable[Verdict]) -> list[Instruction]:
        """Take what became of answers that were admitted, here or elsewhere."""
        instructions: list[Instruction] = []
        for verdict in verdicts:
            self.bytes_up += verdict.bytes_up
            if verdict.failure is not None:
                instructions += self.handle(ClientFailed(verdict.failure))
                continue
            if verdict.record is not None:
                self._note(verdict.record, verdict.metrics)
            instructions += self.machine.handle(UpdateJudged(verdict.ticket, verdict.reason))
        return instructions

    def request(self, ticket: Ticket) -> TrainRequest:
        """Return the request of an assignment."""
        return TrainRequest(
            ticket=ticket,
            base_version=self._state.round,
            params=self._state.params,
            integers=self._state.integers,
            channels=self.channels,
        )

    def decoded(self, update: ClientUpdate) -> ClientUpdate | None:
        """Return what the gate would make of an update, or None if it would refuse it.

        Nothing is changed by asking.
        """
        verdict = self._gate(update)
        return None if isinstance(verdict, str) else verdict

    def accepted(self) -> list[int]:
        """Return the clients whose updates count, sorted."""
        outcomes = self.machine.outcomes
        return sorted(c for c, outcome in outcomes.items() if outcome.status is Status.ACCEPTED)

    def told(self) -> dict[int, Told]:
        """Return what accepted clients have said beside their tensors, if it is asked for."""
        if not self._strategy.alone:
            return {}
        return {
            client: Told(
                num_examples=self._records[client].num_examples or 0,
                metrics=self._metrics[client].means(),
            )
            for client in self.accepted()
        }

    def train_metrics(self) -> Metrics:
        """Return the merged training metrics of the accepted clients."""
        return merge(self._metrics.values())

    def client_records(self) -> tuple[ClientRecord, ...]:
        """Return one record for each client of the cohort, by client number."""
        number = self.machine.terms.round
        records = []
        for client_id, outcome in sorted(self.machine.outcomes.items()):
            record = self._records.get(client_id)
            if outcome.status is not Status.ACCEPTED or record is None:
                failure = outcome.failure
                record = ClientRecord(
                    round=number,
                    client=client_id,
                    status=outcome.status.value,
                    attempt=outcome.attempt,
                    reason=outcome.reason,
                    location=failure.location if failure else "",
                )
            marked = client_id in self._malicious
            records.append(replace(record, malicious=True) if marked else record)
        return tuple(records)

    def tracebacks(self) -> dict[int, str]:
        """Return the traceback of each client that failed in user code."""
        outcomes = self.machine.outcomes.items()
        return {
            client: o.failure.traceback
            for client, o in outcomes
            if o.failure is not None and o.failure.traceback
        }

    def _follow(
        self, instructions: list[Instruction], arrived: ClientUpdate | None = None
    ) -> list[Instruction]:
        """Do what instructions ask of this side; `arrived` is the update that led to them."""
        for instruction in instructions:
            match instruction:
                case Accept(update) if arrived is not None:
                    self._accept(update, arrived)
                case Assign():
                    self.bytes_down += self.broadcast_bytes
                case _:
                    pass
        return instructions

    def _accept(self, update: ClientUpdate, sent: ClientUpdate) -> None:
        """Aggregate a decoded update, and record it as it was sent."""
        self.accumulators.add(update)
        self._note(accepted_record(update, sent, *update_norms([update])), update.metrics)

    def _note(self, record: ClientRecord, metrics: Metrics) -> None:
        self._metrics[record.client] = metrics
        self._records[record.client] = record


def update_norms(updates: Sequence[ClientUpdate]) -> list[float]:
    """Return the Euclidean norm of the parameters' delta of each of several decoded updates."""
    return norms(rows_of([update.channels[PARAMS] for update in updates])) if updates else []


def accepted_record(update: ClientUpdate, sent: ClientUpdate, norm: float) -> ClientRecord:
    """Return the line of a client whose update counts.

    Args:
        update: Decoded.
        sent: As it was sent.
        norm: See `update_norms`.
    """
    return ClientRecord(
        round=update.ticket.round,
        client=update.ticket.client_id,
        status=Status.ACCEPTED.value,
        attempt=update.ticket.attempt,
        num_examples=update.num_examples,
        num_steps=update.num_steps,
        train_loss=update.metrics.means().get("loss"),
        update_norm=norm,
        update_blake3=update_blake3(sent),
        seconds=round(update.seconds, 6),
    )


def _nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
