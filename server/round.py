"""One round as a state machine that does no IO.

`RoundMachine.handle` takes an event and returns instructions. It knows no clock, no socket and no
tensor arithmetic: time comes in as an argument, and what an update is worth is judged by the
admission gate it is given. The simulator and the gRPC coordinator drive the same machine.

Events: `UpdateArrived`, `UpdateJudged`, `ClientFailed`, `ClientLost`, `ClientJoined`,
`DeadlinePassed`.
Instructions: `Assign`, `Accept`, `Reject`, `SetTimer`, `Commit`, `Abort`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from roundel.core.errors import RoundelError
from roundel.core.messages import ClientFailure, ClientUpdate, Ticket


class Status(StrEnum):
    """What became of a client's work in a round."""

    ASSIGNED = "assigned"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"
    LOST = "lost"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class UpdateArrived:
    """A client sent an update.

    Attributes:
        update: What it sent.
        at_s: When it came; None if that is not known, or long ago.
    """

    update: ClientUpdate
    at_s: float | None = None


@dataclass(frozen=True)
class UpdateJudged:
    """An update of this ticket was judged, and aggregated unless it was refused.

    Attributes:
        ticket: That of the update.
        reason: Why it was refused; empty if it was not.
    """

    ticket: Ticket
    reason: str = ""


@dataclass(frozen=True)
class ClientFailed:
    """A client's work ended in an exception."""

    failure: ClientFailure


@dataclass(frozen=True)
class ClientLost:
    """Nothing more will come from this client, for the reason given."""

    client_id: int
    reason: str


@dataclass(frozen=True)
class ClientJoined:
    """A client that was lost is there again."""

    client_id: int


@dataclass(frozen=True)
class DeadlinePassed:
    """The timer that `SetTimer` asked for has run out."""


Event = UpdateArrived | UpdateJudged | ClientFailed | ClientLost | ClientJoined | DeadlinePassed


@dataclass(frozen=True)
class Assign:
    """Give this work to its client."""

    ticket: Ticket


@dataclass(frozen=True)
class Accept:
    """Aggregate this update; it has passed the gate and is decoded."""

    update: ClientUpdate


@dataclass(frozen=True)
class Reject:
    """Do not aggregate the update of this ticket, for this reason."""

    ticket: Ticket
    reason: str


@dataclass(frozen=True)
class SetTimer:
    """Send `DeadlinePassed` at this time."""

    at_s: float


@dataclass(frozen=True)
class Commit:
    """The round is over; step with what was accepted."""


@dataclass(frozen=True)
class Abort:
    """The round is over and cannot count, for this reason."""

    reason: str


Instruction = Assign | Accept | Reject | SetTimer | Commit | Abort

_STORY = 10_000
"""Events that are remembered; a client may cause any number of them."""

Gate = Callable[[ClientUpdate], ClientUpdate | str]
"""The admission gate: an update to the same decoded, or to the reason why it is refused."""


@dataclass(frozen=True, kw_only=True)
class RoundTerms:
    """What a round is about.

    Attributes:
        run: The run's identity.
        round: The round, from 1.
        cohort: The clients that are asked; it may be empty if the quorum is 0.
        target: With how many accepted updates the round ends at once.
        quorum: How many it needs to count at all.
        deadline_s: After how many seconds it ends with what there is; None to wait.
        deadline_factor: After how many times the median time of an accepted update it does so, once
            half of the target is accepted; None to wait.
        stage: Which stage of a reduction in several stages.
    """

    run: str
    round: int
    cohort: Sequence[int]
    target: int
    quorum: int
    deadline_s: float | None = None
    deadline_factor: float | None = None
    stage: int = 0

    def objection_to(self, ticket: Ticket) -> str:
        """Say why an answer with this ticket is none to this round; empty if it is one."""
        if (ticket.run, ticket.round, ticket.stage) == (self.run, self.round, self.stage):
            return ""
        return (
            f"it belongs to round {ticket.round}, stage {ticket.stage} of run {ticket.run}, "
            f"and this is round {self.round}, stage {self.stage} of run {self.run}"
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one client's work.

    Attributes:
        status: The state it is in.
        attempt: Which attempt this is about, from 0.
        reason: Why, in one sentence; empty unless it was refused, failed or lost.
        failure: The failure report, if there is one.
    """

    status: Status
    attempt: int = 0
    reason: str = ""
    failure: ClientFailure | None = None


class RoundMachine:
    """The state of one round.

    Attributes:
        terms: What the round is about.
        outcomes: Client number to what became of its work.
        ended: The instruction that ended the round, or None while it is open.
        story: The latest events, one line each, for error messages.
    """

    def __init__(self, terms: RoundTerms, gate: Gate) -> None:
        if (not terms.cohort and terms.quorum) or len(set(terms.cohort)) != len(terms.cohort):
            raise RoundelError(
                f"a cohort of {list(terms.cohort)} is not a set of clients: select at least one, "
                "each once"
            )
        self.terms = terms
        self.outcomes: dict[int, Outcome] = {}
        self.ended: Commit | Abort | None = None
        self.story: deque[str] = deque(maxlen=_STORY)
        self._gate = gate
        self._accepted = 0
        self._open = 0
        self._began_s = 0.0
        self._durations_s: list[float] = []

    @property
    def accepted(self) -> int:
        """How many updates count so far."""
        return self._accepted

    @property
    def wanted(self) -> int:
        """How many more updates it takes to reach the target."""
        return self.terms.target - self._accepted

    def start(self, now_s: float) -> list[Instruction]:
        """Open the round: assign all work and set the timer."""
        if self.story:
            raise self._misuse("started twice")
        self.story.append(f"round {self.terms.round} started with {len(self.terms.cohort)} clients")
        self._began_s = now_s
        instructions: list[Instruction] = []
        if self.terms.deadline_s is not None:
            instructions.append(SetTimer(now_s + self.terms.deadline_s))
        for client_id in self.terms.cohort:
            self._set(client_id, Outcome(Status.ASSIGNED))
            instructions.append(Assign(self._ticket(client_id, 0)))
        return instructions if self.terms.cohort else self._end("nobody was selected")

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event and say what to do about it."""
        if not self.story:
            raise self._misuse("got an event before it was started")
        match event:
            case UpdateArrived(update, at_s):
                return self._update(update, at_s)
            case UpdateJudged(ticket, reason):
                return self._judged(ticket, reason)
            case ClientFailed(failure):
                return self._failed(failure)
            case ClientLost(client_id, reason):
                return self._lost(client_id, reason)
            case ClientJoined(client_id):
                return self._joined(client_id)
            case DeadlinePassed():
                self.story.append("the deadline passed")
                return self._end("the deadline passed") if self.ended is None else []

    def _update(self, update: ClientUpdate, at_s: float | None) -> list[Instruction]:
        ticket = update.ticket
        if stale := self._stale(ticket):
            self._tell(ticket, f"update refused: {stale}")
            return [Reject(ticket, stale)]
        verdict = self._gate(update)
        if isinstance(verdict, str):
            return self._decide(ticket, verdict)
        instructions = [Accept(verdict), *self._decide(ticket, "")]
        if self.ended is None and at_s is not None:
            instructions += self._moved_deadline(at_s - self._began_s)
        return instructions

    def _moved_deadline(self, duration_s: float) -> list[Instruction]:
        """Set the timer by how long the accepted updates took, this one the last of them."""
        self._durations_s.append(duration_s)
        factor = self.terms.deadline_factor
        if factor is None or 2 * self._accepted < self.terms.target:
            return []
        return [SetTimer(self._began_s + factor * median(self._durations_s))]

    def _judged(self, ticket: Ticket, reason: str) -> list[Instruction]:
        if stale := self._stale(ticket):
            raise self._misuse(f"was told of an update that cannot count: {stale}")
        return self._decide(ticket, reason)

    def _decide(self, ticket: Ticket, reason: str) -> list[Instruction]:
        """Take an update, or refuse it for a reason."""
        if reason:
            self._set(ticket.client_id, Outcome(Status.REJECTED, ticket.attempt, reason))
            self._tell(ticket, f"update refused: {reason}")
            return [Reject(ticket, reason), *self._settle()]
        self._set(ticket.client_id, Outcome(Status.ACCEPTED, ticket.attempt))
        self._tell(ticket, "update accepted")
        return self._settle()

    def _failed(self, failure: ClientFailure) -> list[Instruction]:
        ticket = failure.ticket
        if stale := self._stale(ticket):
            self._tell(ticket, f"failure report refused: {stale}")
            return [Reject(ticket, stale)]
        outcome = Outcome(Status.FAILED, ticket.attempt, failure.error, failure)
        self._set(ticket.client_id, outcome)
        self._tell(ticket, f"failed: {failure.error}")
        return self._settle()

    def _lost(self, client_id: int, reason: str) -> list[Instruction]:
        before = self.outcomes.get(client_id)
        self.story.append(f"client {client_id} lost: {reason}")
        if self.ended is not None or before is None or before.status is not Status.ASSIGNED:
            return []
        self._set(client_id, Outcome(Status.LOST, before.attempt, reason))
        return self._settle()

    def _joined(self, client_id: int) -> list[Instruction]:
        before = self.outcomes.get(client_id)
        self.story.append(f"client {client_id} joined")
        if self.ended is not None or before is None or before.status is not Status.LOST:
            return []
        self._set(client_id, Outcome(Status.ASSIGNED, before.attempt + 1))
        return [Assign(self._ticket(client_id, before.attempt + 1))]

    def _stale(self, ticket: Ticket) -> str | None:
        """Say why an answer with this ticket does not count, or None if it does."""
        terms = self.terms
        outcome = self.outcomes.get(ticket.client_id)
        if elsewhere := terms.objection_to(ticket):
            return elsewhere
        if outcome is None:
            return f"client {ticket.client_id} is not in the cohort of round {terms.round}"
        if ticket.attempt != outcome.attempt:
            return f"it answers attempt {ticket.attempt}, and attempt {outcome.attempt} counts"
        if outcome.status is Status.ACCEPTED:
            return "it is a duplicate: an update of this client was accepted already"
        if self.ended is not None:
            return f"it is late: round {terms.round} is over"
        if outcome.status is not Status.ASSIGNED:
            return f"this client's work is already {outcome.status.value}"
        return None

    def _settle(self) -> list[Instruction]:
        """End the round if enough has arrived or nothing more can."""
        if self._accepted >= self.terms.target:
            return self._end("the target was reached")
        return self._end("every client answered or was lost") if self._open == 0 else []

    def _end(self, why: str) -> list[Instruction]:
        for client_id, outcome in self.outcomes.items():
            if outcome.status is Status.ASSIGNED:
                self._set(client_id, Outcome(Status.UNFINISHED, outcome.attempt, why))
        if self._accepted >= self.terms.quorum:
            self.ended = Commit()
        else:
            self.ended = Abort(
                f"round {self.terms.round} has {self._accepted} accepted of "
                f"{len(self.terms.cohort)} updates and needs {self.terms.quorum}: {why}"
            )
        self.story.append(f"ended: {why}")
        return [self.ended]

    def _set(self, client_id: int, outcome: Outcome) -> None:
        before = self.outcomes.get(client_id)
        was_open = before is not None and before.status is Status.ASSIGNED
        self._open += (outcome.status is Status.ASSIGNED) - was_open
        self._accepted += outcome.status is Status.ACCEPTED
        self.outcomes[client_id] = outcome

    def _ticket(self, client_id: int, attempt: int) -> Ticket:
        return Ticket(
            run=self.terms.run,
            round=self.terms.round,
            client_id=client_id,
            stage=self.terms.stage,
            attempt=attempt,
        )

    def _tell(self, ticket: Ticket, what: str) -> None:
        self.story.append(f"client {ticket.client_id}, attempt {ticket.attempt}: {what}")

    def _misuse(self, what: str) -> RoundelError:
        return RoundelError(f"round {self.terms.round} {what}; so far: {'; '.join(self.story)}")

    def check_invariants(self) -> None:
        """Raise `RoundelError`, with the story, if the state contradicts itself."""
        statuses = [outcome.status for outcome in self.outcomes.values()]
        accepted = statuses.count(Status.ACCEPTED)
        still_open = statuses.count(Status.ASSIGNED)
        claims = {
            "outcomes are those of the cohort": not self.outcomes
            or set(self.outcomes) == set(self.terms.cohort),
            "accepted updates are counted": accepted == self._accepted,
            "open assignments are counted": still_open == self._open,
            "no more is accepted than the target": accepted <= self.terms.target,
            "a committed round has its quorum": not isinstance(self.ended, Commit)
            or accepted >= self.terms.quorum,
            "an aborted round lacks its quorum": not isinstance(self.ended, Abort)
            or accepted < self.terms.quorum,
            "nothing is open once the round is over": self.ended is None or still_open == 0,
            "an open round waits for somebody": self.ended is not None
            or not self.outcomes
            or still_open > 0,
            "a failure has its report": all(
                (o.status is Status.FAILED) == (o.failure is not None)
                for o in self.outcomes.values()
            ),
        }
        for claim, holds in claims.items():
            if not holds:
                raise self._misuse(f"broke its invariant: {claim}")
