"""A population that lives on nodes: what the loop over rounds asks of it goes over the wire."""

from collections.abc import Callable, Mapping, Sequence
from queue import Empty

from roundel.core.clientstate import ClientState
from roundel.core.errors import RunFailed
from roundel.core.messages import ClientFailure, ClientUpdate, EvaluateRequest, Evaluation, Ticket
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import broadcast_tensors, ticket_to_wire
from roundel.core.wire.payload import Packed, pack
from roundel.server.grpc_coordinator import Answer, Arrival, Coordinator
from roundel.server.loop import Clock
from roundel.server.open_round import OpenRound
from roundel.server.round import (
    Assign,
    ClientFailed,
    ClientLost,
    Commit,
    DeadlinePassed,
    Instruction,
    Reject,
    SetTimer,
    UpdateArrived,
)

LEASE_S = 20.0
_TICK_S = 0.5


class RemoteClients:
    """The clients that nodes host, for the loop over rounds.

    Client states stay on the nodes: `states` can only tell that there are none.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        population: int,
        clock: Clock,
        *,
        stateful: bool,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over a coordinator's traffic.

        Args:
            coordinator: Running.
            population: How many clients there are.
            clock: Seconds, monotonic.
            stateful: Whether the strategy keeps state at clients.
            watch: Called about twice a second while waiting; may raise to end the run.
        """
        self._coordinator = coordinator
        self._population = population
        self._clock = clock
        self._stateful = stateful
        self._watch = watch

    @property
    def size(self) -> int:
        """N, the population."""
        return self._population

    def train(self, open_round: OpenRound) -> None:
        """Send the work out and take answers in until the round has ended.

        Raises:
            RunFailed: A round that needs no answer got none because every node is gone.
        """
        deadline_s: float | None = None
        todo = open_round.start(self._clock())
        first = next((i.ticket for i in todo if isinstance(i, Assign)), None)
        if first is None:  # nobody takes part, and the round is over
            return
        request = open_round.request(first)
        packed = self._offer(
            pack(broadcast_tensors(request.params, request.integers, request.channels))
        )
        while True:
            homeless: list[ClientLost] = []
            for instruction in todo:
                if isinstance(instruction, SetTimer):
                    deadline_s = instruction.at_s
                elif isinstance(instruction, Assign):
                    homeless += self._assign(instruction.ticket, request.base_version, packed)
            if open_round.ended is not None:
                self._coordinator.nodes.withdraw(lambda work: work.HasField("train"))
                self._check_not_alone(open_round)
                return
            todo = []
            for lost in [*homeless, *self._lost_clients()]:
                todo += open_round.handle(lost)
            if deadline_s is not None and self._clock() >= deadline_s:
                deadline_s = None
                todo += open_round.handle(DeadlinePassed())
            if not todo and (arrival := self._next_arrival(deadline_s)) is not None:
                todo += _judge(open_round, arrival)

    def _check_not_alone(self, open_round: OpenRound) -> None:
        """Refuse to count a round in which nobody was left to answer, though none need answer."""
        counts = isinstance(open_round.ended, Commit)
        if counts and not open_round.accepted() and not self._coordinator.nodes.hosted():
            raise RunFailed(
                f"no node was left in round {open_round.machine.terms.round}; start nodes again "
                "and resume the run"
            )

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Tell each node which of its clients' states are final."""
        if self._stateful:
            self._coordinator.closed = (
                "the strategy keeps state at clients, which a new node does not have"
            )
        self._coordinator.nodes.send_by_node(
            accepted, lambda mine: pb.Work(commit=pb.Commit(round=round, client_ids=mine))
        )

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Ask the nodes and wait for all answers; a lost node's clients fail."""
        first = requests[0]
        packed = self._offer(pack(broadcast_tensors(first.params, first.integers, {})))
        waiting = {request.ticket.client_id: request.ticket for request in requests}
        answers: dict[int, Evaluation | ClientFailure] = {}

        def gone(client_id: int) -> None:
            if ticket := waiting.pop(client_id, None):
                answers[client_id] = ClientFailure(
                    ticket=ticket, stage="evaluate", error="its node is gone"
                )

        for request in requests:
            work = pb.Evaluate(
                ticket=ticket_to_wire(request.ticket), payload=packed, split=request.split
            )
            if not self._coordinator.nodes.send(request.ticket.client_id, pb.Work(evaluate=work)):
                gone(request.ticket.client_id)
        while waiting:
            for lost in self._lost_clients():
                gone(lost.client_id)
            arrival = self._next_arrival(None) if waiting else None
            if arrival is None:
                continue
            answer, client_id = arrival.answer, arrival.answer.ticket.client_id
            if isinstance(answer, ClientUpdate) or waiting.get(client_id) != answer.ticket:
                arrival.verdict.set_result("it is late or a duplicate: nobody waits for it")
            else:
                del waiting[client_id]
                answers[client_id] = answer
                arrival.verdict.set_result(None)
        return [answers[request.ticket.client_id] for request in requests]

    def states(self) -> Mapping[int, ClientState] | None:
        """Return that there are no states, or None if they are on the nodes."""
        return None if self._stateful else {}

    def _offer(self, packed: Packed) -> pb.Payload:
        """Let nodes download a payload, in place of the one before."""
        self._coordinator.payloads.clear()
        self._coordinator.payloads[packed.digest] = packed
        return pb.Payload(size=len(packed.data), digest=packed.digest)

    def _assign(
        self, ticket: Ticket, base_version: int, payload: pb.Payload
    ) -> Sequence[ClientLost]:
        """Send work to its client's node; return the loss if there is none."""
        work = pb.Train(ticket=ticket_to_wire(ticket), base_version=base_version, payload=payload)
        if self._coordinator.nodes.send(ticket.client_id, pb.Work(train=work)):
            return ()
        return (ClientLost(ticket.client_id, "no node hosts it"),)

    def _next_arrival(self, deadline_s: float | None) -> Arrival | None:
        wait_s = _TICK_S if deadline_s is None else min(_TICK_S, deadline_s - self._clock())
        try:
            return self._coordinator.arrivals.get(timeout=max(0.0, wait_s))
        except Empty:
            self._watch()
            return None

    def _lost_clients(self) -> list[ClientLost]:
        return [
            ClientLost(client_id, f"its node {node.name!r} was silent for {LEASE_S:g} s")
            for node in self._coordinator.nodes.remove_silent(LEASE_S)
            for client_id in node.clients
        ]


def _judge(open_round: OpenRound, arrival: Arrival) -> list[Instruction]:
    """Feed an answer to the round and tell the node what became of it."""
    event = _event(arrival.answer)
    if event is None:
        arrival.verdict.set_result("it is late: this evaluation is over")
        return []
    instructions = open_round.handle(event)
    refused = [i.reason for i in instructions if isinstance(i, Reject)]
    arrival.verdict.set_result(refused[0] if refused else None)
    return instructions


def _event(answer: Answer) -> UpdateArrived | ClientFailed | None:
    match answer:
        case ClientUpdate():
            return UpdateArrived(answer)
        case ClientFailure():
            return ClientFailed(answer)
        case Evaluation():
            return None
