"""A population that lives on nodes: what the loop over rounds asks of it goes over the wire."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from queue import Empty

from torch import Tensor

from roundel.core.broadcast import broadcast_tensors
from roundel.core.clientstate import ClientState
from roundel.core.errors import RunDirectoryError
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_to_wire
from roundel.core.wire.payload import pack
from roundel.server.arrivals import NOBODY_WAITS, Arrival, Hosting, is_late, settle_again
from roundel.server.carrier import Carrier
from roundel.server.errands import Errands
from roundel.server.grpc_coordinator import Coordinator, Progress
from roundel.server.judging import SURVEY_STAGE
from roundel.server.loop import Clock
from roundel.server.open_round import OpenRound
from roundel.server.recovery import end_again, end_of
from roundel.server.round import Commit

_TICK_S = 0.5


def _silent(_line: str) -> None:
    """Say nothing."""


class RemoteClients:
    """The clients that nodes host, for the loop over rounds.

    What is accepted is in the coordinator's journal before its node hears of it, and so is how a
    round ended before anybody does. A round that an earlier process had begun goes on with what is
    there, and one that had ended ends again in the same way.

    Client states stay on the nodes, so there are none here.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        population: int,
        clock: Clock,
        *,
        watch: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = _silent,
        evaluation_s: float | None = None,
    ) -> None:
        """Take over a coordinator's traffic.

        Args:
            coordinator: Running.
            population: How many clients there are.
            clock: Seconds, monotonic.
            watch: Called about twice a second while waiting; may raise to end the run.
            say: Is told, in one line each, for whom a round waits.
            evaluation_s: How long an evaluation waits at most; None for as long as nodes are there.
        """
        self._coordinator = coordinator
        self._population = population
        self._clock = clock
        self._watch = watch
        self._say = say
        self._evaluation_s = evaluation_s

    @property
    def size(self) -> int:
        """N, the population."""
        return self._population

    def train(self, open_round: OpenRound) -> None:
        """Send the work out and take answers in until the round has ended, durably.

        Raises:
            RunDirectoryError: What was accepted cannot be kept.
            RunFailed: The round had ended before, and cannot end in the same way.
        """
        store, terms = self._coordinator.store, open_round.machine.terms
        done = Progress(done=terms.round - 1, objection_to=is_late)
        if ended := store.journal.ended(terms.round, terms.stage):
            open_round.start(self._clock())
            end_again(open_round, ended, store)
            return
        carrier = Carrier(self._coordinator, open_round, self._clock(), self._say)
        self._coordinator.progress = replace(
            done,
            open_round=carrier.status,
            unanswered=carrier.errands.unanswered,
            objection_to=terms.objection_to,
        )
        carrier.begin(self._offer_request)
        while not carrier.is_over():
            carrier.look_around(self._clock())
            if not carrier.is_over() and (incoming := self._next(carrier.deadline_s)):
                carrier.take(incoming, self._clock())
        self._coordinator.nodes.withdraw(lambda work: work.HasField("train"))
        self._coordinator.payloads.clear()
        self._coordinator.progress = done
        # A round that fails is open when the run is resumed, and goes on with what it has.
        if isinstance(open_round.ended, Commit) and not open_round.objection:
            store.journal.end_round(terms.round, end_of(open_round), terms.stage)

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Tell each node which of its clients' states are final."""
        self._coordinator.progress = Progress(done=round, objection_to=is_late)
        self._coordinator.nodes.send_by_node(
            accepted, lambda mine: pb.Work(commit=pb.Commit(round=round, client_ids=mine))
        )

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Ask the nodes and wait for all answers; the clients of a node that is away fail.

        A survey before a round is asked once, and what was answered then stays.
        """
        first = requests[0].ticket
        if first.stage != SURVEY_STAGE:
            return self._asked(requests)
        journal = self._coordinator.store.journal
        known = journal.survey(first.round, first.stage)
        if any(request.ticket not in known for request in requests):
            answers = self._asked(requests)
            journal.keep_survey(first.round, first.stage, answers)
            return answers
        return [known[request.ticket] for request in requests]

    def states(self) -> Mapping[int, ClientState] | None:
        """Return that there are no states, or None if they are on the nodes."""
        return None if self._coordinator.terms.stateful else {}

    def _asked(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        first = requests[0]
        payload = self._offer(broadcast_tensors(first.params, first.integers, {}))
        errands = Errands(self._coordinator.nodes)
        progress = self._coordinator.progress
        self._coordinator.progress = replace(progress, unanswered=errands.unanswered)
        tickets = {request.ticket.client_id: request.ticket for request in requests}
        answers: dict[int, Evaluation | ClientFailure] = {}
        for request in requests:
            work = pb.Evaluate(
                ticket=ticket_to_wire(request.ticket), payload=payload, split=request.split
            )
            errands.give(request.ticket.client_id, pb.Work(evaluate=work))

        def give_up(client_ids: Sequence[int], why: str) -> None:
            for client_id in client_ids:
                errands.drop(client_id)
                answers[client_id] = ClientFailure(
                    ticket=tickets[client_id], stage="evaluate", error=why
                )

        deadline_s = None if self._evaluation_s is None else self._clock() + self._evaluation_s
        while errands:
            self._coordinator.remove_silent()
            give_up(list(errands.away()), "its node is gone")
            if deadline_s is not None and self._clock() >= deadline_s:
                give_up([c for c in tickets if c in errands], "the deadline passed")
            match self._next(deadline_s) if errands else None:
                case Hosting(clients):
                    errands.hosted(clients)
                case Arrival(answer) as arrival:
                    client_id = answer.ticket.client_id
                    expected = tickets[client_id] if client_id in errands else None
                    if isinstance(answer, ClientUpdate) or answer.ticket != expected:
                        self._refuse(arrival)
                    else:
                        errands.drop(client_id)
                        answers[client_id] = answer
                        arrival.verdict.set_result(None)
                case None:
                    pass
        self._coordinator.nodes.withdraw(lambda work: work.HasField("evaluate"))
        self._coordinator.payloads.clear()
        self._coordinator.progress = progress
        return [answers[request.ticket.client_id] for request in requests]

    def _refuse(self, arrival: Arrival) -> None:
        """Refuse an answer that comes while nobody trains, unless it was accepted before."""
        if not settle_again(arrival, self._coordinator.store):
            self._coordinator.store.drop(arrival.kept.file if arrival.kept else "")
            arrival.verdict.set_result(NOBODY_WAITS)

    def _offer_request(self, request: TrainRequest) -> pb.Payload:
        return self._offer(broadcast_tensors(request.params, request.integers, request.channels))

    def _offer(self, tensors: Mapping[str, Tensor]) -> pb.Payload:
        """Let nodes download tensors."""
        packed = pack(tensors)
        self._coordinator.payloads[packed.digest] = packed
        return pb.Payload(size=packed.size, digest=packed.digest)

    def _next(self, deadline_s: float | None) -> Arrival | Hosting | None:
        """Wait a moment for something to come in.

        Raises:
            RunDirectoryError: What came could not be kept.
        """
        wait_s = _TICK_S if deadline_s is None else min(_TICK_S, deadline_s - self._clock())
        try:
            incoming = self._coordinator.arrivals.get(timeout=max(0.0, wait_s))
        except Empty:
            self._watch()
            return None
        if isinstance(incoming, RunDirectoryError):
            raise incoming
        return incoming
