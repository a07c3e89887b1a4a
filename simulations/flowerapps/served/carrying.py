"""One wave of messages on its way: who is asked, what comes back, who is given up."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from roundel.core.errors import ProtocolError
from roundel.core.messages import ClientFailure, ClientUpdate, Ticket
from roundel.core.status import RoundStatus
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_to_wire
from roundel.server.arrivals import NOBODY_WAITS, Arrival, Hosting, settle_again, tell_when
from roundel.server.errands import Errands
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.round import Outcome, Status
from roundel.simulations.flowerapps.parcels import Answer, Task
from roundel.simulations.flowerapps.served.offering import packed_message
from roundel.simulations.flowerapps.served.replies import Record, Wave, answer_to
from roundel.simulations.flowerapps.served.wired import is_bare, reply_of

_OWN = ("message_id", "dst_node_id", "created_at")
"""Metadata that differ from message to message: a node knows its own, and the time is one for all
of a wave."""

_NAMED = 5
"""How many nodes that are waited for are named."""


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How nodes are waited for.

    Attributes:
        patience_s: How long for one that is away.
        clock: Seconds, monotonic.
        wall: Seconds since 1970.
        say: Is told, in one line each, for whom a wave waits.
        before: Called once, before the first message goes out that was not answered before.
    """

    patience_s: float
    clock: Callable[[], float]
    wall: Callable[[], float]
    say: Callable[[str], None]
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Due:
    """A message that is to be answered.

    Attributes:
        task: The message.
        until_s: Until when somebody waits for the answer; None for as long as it is good.
    """

    task: Task
    until_s: float | None = None


class Carried:
    """One wave on its way.

    Attributes:
        errands: What the clients still owe.
        answers: What became of those that owe nothing any more, for the app.
        outcomes: The same, for the record.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        record: Record,
        wave: Wave,
        asked: Sequence[Due],
        manner: Manner,
        away_s: dict[int, float],
    ) -> None:
        """Begin.

        Args:
            coordinator: Running.
            record: Where replies are kept.
            wave: As it is written down.
            asked: What is to be sent.
            manner: How nodes are waited for.
            away_s: Since when clients are away, from wave to wave; it is kept up to date.
        """
        self.errands = Errands(coordinator.nodes)
        self.answers: dict[int, Answer] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._coordinator, self._record = coordinator, record
        self._wave, self._manner = wave, manner
        self._tasks = {due.task.client: due.task for due in asked}
        self._began_s = began_s = manner.clock()
        self._ends = _ends(asked, began_s)
        self._away_s = away_s
        self._missing: tuple[str, ...] = ()

    def send(self) -> None:
        """Ask everybody; messages of the same content share one payload."""
        payloads: dict[str, pb.Payload] = {}
        for client, task in self._tasks.items():
            metadata = {name: v for name, v in task.metadata.items() if name not in _OWN}
            kind = f"{self._wave.digests[client, task.number]} {metadata}"
            if kind not in payloads:
                payloads[kind] = self._offer(task, metadata)
            work = pb.Train(
                ticket=ticket_to_wire(self._ticket(client)),
                base_version=task.number,
                payload=payloads[kind],
            )
            self.errands.give(client, pb.Work(train=work))

    def look_around(self, now_s: float) -> None:
        """Give up messages that have expired, and clients whose nodes are away for too long."""
        self._coordinator.remove_silent()
        away = dict(self.errands.away())
        for client, (_, why) in list(away.items()):
            if now_s - self._away_s.setdefault(client, now_s) >= self._manner.patience_s:
                del away[client]
                self._over(client, Outcome(Status.LOST, reason=why))
        while self._ends and self._ends[0].at_s <= now_s:
            end = self._ends.popleft()
            if end.client in self.errands:
                self._over(end.client, end.outcome)
        self._name({name for name, _ in away.values()}, len(away))

    def take(self, incoming: Arrival | Hosting) -> None:
        """Take in what has come."""
        if isinstance(incoming, Hosting):
            for client in incoming.clients:
                self._away_s.pop(client, None)
            self.errands.hosted(incoming.clients)
        elif not settle_again(incoming, self._coordinator.store):
            self._judge(incoming)

    def objection_to(self, ticket: Ticket) -> str:
        """Say why an answer with this ticket cannot count; may be called from any thread."""
        client = ticket.client_id
        return "" if client in self.errands and ticket == self._ticket(client) else NOBODY_WAITS

    def status(self, now_s: float) -> RoundStatus:
        """Say how far the wave is; may be called from any thread."""
        asked = len(self._tasks)
        return RoundStatus(
            round=self._wave.number,
            cohort=asked,
            accepted=asked - len(self.errands),
            target=asked,
            quorum=asked,
            elapsed_s=now_s - self._began_s,
            missing=self._missing,
        )

    def _judge(self, arrival: Arrival) -> None:
        """Take an answer; its node hears what became of it once that is durable."""
        answer, kept = arrival.answer, arrival.kept
        objection = self.objection_to(answer.ticket)
        client = answer.ticket.client_id
        if not objection and isinstance(answer, ClientUpdate) and kept is not None:
            try:
                reply = self._reply(answer)
            except ProtocolError as error:
                objection = f"its reply was refused: {error}"
                self._over(client, Outcome(Status.REJECTED, reason=objection))
            else:
                durable = self._record.accept(kept, bare=is_bare(answer.channels))
                tell_when(durable, arrival.verdict)
                self._over(client, Outcome(Status.ACCEPTED), reply)
                return
        elif not objection and isinstance(answer, ClientFailure):
            self._over(client, Outcome(Status.FAILED, failure=answer))
            arrival.verdict.set_result(None)
            return
        self._coordinator.store.drop(kept.file if kept else "")
        arrival.verdict.set_result(objection or NOBODY_WAITS)

    def _reply(self, update: ClientUpdate) -> Answer:
        """Read a reply.

        Raises:
            ProtocolError: It is none, or one to another message.
        """
        if update.base_version != self._tasks[update.ticket.client_id].number:
            raise ProtocolError(f"it is one to message {update.base_version}")
        return reply_of(update.channels)

    def _over(self, client: int, outcome: Outcome, reply: Answer | None = None) -> None:
        self.errands.drop(client)
        self.outcomes[client] = outcome
        self.answers[client] = reply or answer_to(outcome)

    def _name(self, names: Iterable[str], count: int) -> None:
        """Say for whom the wave waits, if it is for others than before."""
        missing = tuple(sorted(names))
        if count and missing != self._missing:
            known = [repr(name) for name in missing if name]
            more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
            self._manner.say(
                f"waiting for {', '.join(known[:_NAMED]) or 'a node'}{more}: {count} clients are "
                f"away; after {self._manner.patience_s:g} s the run goes on without their replies"
            )
        self._missing = missing if count else ()

    def _offer(self, task: Task, metadata: Mapping[str, object]) -> pb.Payload:
        """Let nodes download a message."""
        about = {**metadata, "created_at": self._wave.began_s}
        packed = packed_message(task.content, about)
        self._coordinator.payloads[packed.digest] = packed
        return pb.Payload(size=packed.size, digest=packed.digest)

    def _ticket(self, client: int) -> Ticket:
        run, number = self._coordinator.terms.run, self._wave.number
        return Ticket(run=run, round=number, client_id=client)


@dataclass(frozen=True, kw_only=True)
class _End:
    """What becomes of a message that is not answered by then."""

    at_s: float
    client: int
    outcome: Outcome


def _ends(asked: Sequence[Due], began_s: float) -> deque[_End]:
    """Return until when messages are waited for, the first end first."""
    expired = Outcome(Status.LOST, reason="its message has expired")
    late = Outcome(Status.UNFINISHED, reason="nobody waits any more")
    ends: list[_End] = []
    for due in asked:
        client, good_s = due.task.client, float(due.task.metadata["ttl"])
        ends.append(_End(at_s=began_s + good_s, client=client, outcome=expired))
        if due.until_s is not None:
            ends.append(_End(at_s=due.until_s, client=client, outcome=late))
    return deque(sorted(ends, key=lambda end: end.at_s))
