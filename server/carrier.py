"""One round over the wire: who is asked, what comes back, for whom it waits, whom it gives up."""

from collections.abc import Callable, Sequence

from roundel.core.messages import ClientFailure, ClientUpdate, TrainRequest
from roundel.core.status import RoundStatus
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_to_wire
from roundel.server.arrivals import Arrival, Hosting, settle_again, tell_when
from roundel.server.errands import Errands
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.open_round import OpenRound
from roundel.server.recovery import feed_accepted
from roundel.server.round import (
    Assign,
    ClientFailed,
    ClientJoined,
    ClientLost,
    DeadlinePassed,
    Event,
    Instruction,
    Reject,
    SetTimer,
    Status,
    UpdateArrived,
)

_NAMED = 5
"""How many nodes that are waited for are named."""


class Carrier:
    """Carries the messages of one round.

    Attributes:
        errands: What the clients still owe.
        deadline_s: When the round ends in any case; None if it does not.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        open_round: OpenRound,
        now_s: float,
        say: Callable[[str], None],
    ) -> None:
        """Prepare to carry.

        Args:
            coordinator: Running.
            open_round: Not started yet.
            now_s: The time, monotonic.
            say: Is told, in one line each, for whom the round waits.
        """
        self.errands = Errands(coordinator.nodes)
        self.deadline_s: float | None = None
        self._coordinator = coordinator
        self._round = open_round
        self._began_s = now_s
        self._say = say
        self._given_up: set[int] = set()
        self._missing: tuple[str, ...] = ()
        self._offer: Callable[[TrainRequest], pb.Payload]
        self._payload: pb.Payload | None = None
        self._base_version = 0

    def is_over(self) -> bool:
        """Whether the round has ended."""
        return self._round.ended is not None

    def begin(self, offer: Callable[[TrainRequest], pb.Payload]) -> None:
        """Start the round and ask everybody who has not answered an earlier process.

        Args:
            offer: Lets nodes download what a request holds; called once, if anybody is asked.
        """
        self._offer = offer
        todo = self._round.start(self._began_s)
        self._follow([*feed_accepted(self._round, self._coordinator.store), *todo])

    def status(self, now_s: float) -> RoundStatus:
        """Say how far the round is; may be called from any thread."""
        terms = self._round.machine.terms
        return RoundStatus(
            round=terms.round,
            cohort=len(terms.cohort),
            accepted=self._round.machine.accepted,
            target=terms.target,
            quorum=terms.quorum,
            elapsed_s=now_s - self._began_s,
            left_s=None if self.deadline_s is None else max(0.0, self.deadline_s - now_s),
            missing=self._missing,
        )

    def look_around(self, now_s: float) -> None:
        """Give up clients whose nodes are away, if the round can do without; end it in time."""
        self._coordinator.remove_silent()
        away = self.errands.away()
        if away and self._can_do_without(len(away)):
            self._given_up.update(away)
            for client_id, (_, why) in list(away.items()):
                self._handle(ClientLost(client_id, why), client_id)
        elif {name for name, _ in away.values()} != set(self._missing):
            self._wait_for(sorted({name for name, _ in away.values()}), len(away))
        if self.deadline_s is not None and now_s >= self.deadline_s and not self.is_over():
            self.deadline_s = None
            self._handle(DeadlinePassed())

    def take(self, incoming: Arrival | Hosting, now_s: float) -> None:
        """Take in what has come."""
        match incoming:
            case Hosting(clients):
                for client_id in self._given_up.intersection(clients):
                    self._given_up.discard(client_id)
                    self._handle(ClientJoined(client_id))
                self.errands.hosted(clients)
            case Arrival():
                self._judge(incoming, now_s)

    def _can_do_without(self, away: int) -> bool:
        """Tell whether a round reaches its quorum without these, or not even with them."""
        terms, accepted = self._round.machine.terms, self._round.machine.accepted
        open_ = len(self.errands)
        if accepted + open_ < terms.quorum:
            return True
        anybody = accepted > 0 or self._coordinator.nodes.hosted() > 0
        return anybody and accepted + open_ - away >= terms.quorum

    def _wait_for(self, names: Sequence[str], count: int) -> None:
        self._missing = tuple(names)
        if not count:
            return
        known = [repr(name) for name in names if name]
        some = ", ".join(known[:_NAMED]) + (
            f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        )
        terms, accepted = self._round.machine.terms, self._round.machine.accepted
        self._say(
            f"round {terms.round} waits for {some or 'a node'}: {count} of its clients are away, "
            f"and with {accepted} updates it needs {max(0, terms.quorum - accepted)} more"
        )

    def _judge(self, arrival: Arrival, now_s: float) -> None:
        """Feed an answer to the round; its node hears what became of it once that is durable."""
        if settle_again(arrival, self._coordinator.store):
            return
        client_id = arrival.answer.ticket.client_id
        match arrival.answer:
            case ClientUpdate() as update:
                instructions = self._handle(UpdateArrived(update, now_s), client_id)
            case ClientFailure() as failure:
                instructions = self._handle(ClientFailed(failure), client_id)
            case _:
                arrival.verdict.set_result("it is late: this evaluation is over")
                return
        refused = [i.reason for i in instructions if isinstance(i, Reject)]
        if arrival.kept is None:
            arrival.verdict.set_result(refused[0] if refused else None)
        elif refused:
            self._coordinator.store.drop(arrival.kept.file)
            arrival.verdict.set_result(refused[0])
        else:
            tell_when(self._coordinator.store.journal.accept(arrival.kept), arrival.verdict)

    def _handle(self, event: Event, client_id: int | None = None) -> list[Instruction]:
        """Feed an event to the round; the client that it is about may owe nothing any more."""
        instructions = self._round.handle(event)
        self._follow(instructions)
        outcome = None if client_id is None else self._round.machine.outcomes.get(client_id)
        if client_id is not None and outcome and outcome.status is not Status.ASSIGNED:
            self.errands.drop(client_id)
        return instructions

    def _follow(self, instructions: Sequence[Instruction]) -> None:
        """Do what the round asks for, but for what has been answered meanwhile."""
        outcomes = self._round.machine.outcomes
        for instruction in instructions:
            if isinstance(instruction, SetTimer):
                self.deadline_s = instruction.at_s
            elif (
                isinstance(instruction, Assign)
                and outcomes[instruction.ticket.client_id].status is Status.ASSIGNED
            ):
                self._assign(instruction)

    def _assign(self, instruction: Assign) -> None:
        if self._payload is None:
            request = self._round.request(instruction.ticket)
            self._payload, self._base_version = self._offer(request), request.base_version
        work = pb.Train(
            ticket=ticket_to_wire(instruction.ticket),
            base_version=self._base_version,
            payload=self._payload,
        )
        self.errands.give(instruction.ticket.client_id, pb.Work(train=work))
