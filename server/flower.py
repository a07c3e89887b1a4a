"""Our server as a Strategy of Flower's: its rounds, driven step by step by Flower's loop.

Flower calls, in each round: `configure_train`, which opens one of our rounds and gives its requests
out; `aggregate_train`, which feeds the replies to the same machine, gate and sums that every other
engine of ours uses; and the same for what clients evaluate. What a round is worth, and when a run
is to stop, is found out as always (`roundel.server.judging`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.errors import ParameterError, RunFailed
from roundel.core.flower import (
    Answer,
    Work,
    broadcast_arrays,
    model_arrays,
    model_tensors,
)
from roundel.core.flower_names import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MessageType,
    MetricRecord,
    Strategy,
)
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
)
from roundel.core.records import RoundReport
from roundel.server.aggregation import ServerState
from roundel.server.flower_nodes import Replies, Roster, messages_of
from roundel.server.loop import Server
from roundel.server.open_round import OpenRound
from roundel.server.privacy import Ledger
from roundel.server.round import Assign, ClientFailed, ClientLost, Event, UpdateArrived
from roundel.server.run import final_model
from roundel.server.stepwise import WAIT_S, check_stepwise, deadline_s

TIMEOUT_S = 3600.0

_KEPT_NUMBERS = ("completed", "failures", "bytes_up", "bytes_down")

OnReport = Callable[[ServerState, RoundReport], None]
"""Is given the state after each round, and what there is to say about the round."""


def unheard(_state: ServerState, _report: RoundReport) -> None:
    """Do nothing about a round."""


class RoundelStrategy(Strategy):
    """A strategy of ours, for Flower's `start`.

    It goes through its rounds once. The arrays are the model's state dict, as the strategy reports
    it; what clients are sent and what the server keeps besides is in the messages and in here.

    Attributes:
        server: What runs the rounds.
        state: After the last round that is over; None before the first one begins.
        reports: What there is to say about the rounds so far.
    """

    def __init__(
        self,
        server: Server,
        population: int,
        *,
        fingerprint: str = "",
        wait_s: float = WAIT_S,
        on_report: OnReport = unheard,
    ) -> None:
        """Wrap a server.

        Args:
            server: Not running.
            population: N; node ids of the Grid are told apart by what nodes say of themselves.
            fingerprint: What each node must have made of the experiment; empty if any will do.
            wait_s: How long to wait for nodes before the first round.
            on_report: Hears of each round.

        Raises:
            ConfigError: The experiment asks for what Flower's loop cannot do.
        """
        check_stepwise(server.plan)
        self.server = server
        self.state: ServerState | None = None
        self.reports: list[RoundReport] = []
        self._ledger: Ledger | None = server.ledger(population)
        self._population = population
        self._roster = Roster(population=population, fingerprint=fingerprint, wait_s=wait_s)
        self._on_report = on_report
        self._stateful = server.plan.stateful(server.learner.spec)
        self._state_rounds: dict[int, int] = {}
        self._open: _Open | None = None

    @property
    def initial_arrays(self) -> ArrayRecord:
        """The model to begin with."""
        return self._arrays(self.server.initial_state())

    @property
    def num_rounds(self) -> int:
        """How many rounds the experiment has."""
        return self.server.plan.experiment.rounds

    @property
    def timeout_s(self) -> float:
        """How long a round waits for replies."""
        return deadline_s(self.server.plan) or TIMEOUT_S

    def summary(self) -> None:
        """Show nothing: the experiment says it all."""

    # ---- training

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a round, and return its work; nothing once the run is over.

        Args:
            server_round: From 1.
            arrays: In round 1 the model to begin with; later those that were returned.
            config: Goes to the clients, with the round.
            grid: Where the nodes are.

        Raises:
            RunFailed: Nodes are missing, or do not fit.
        """
        began_s = self.server.clock()
        if self._is_over:
            return []
        state = self._begun(arrays) if self.state is None else self.state
        self._check_next(server_round, state)
        self._roster.meet(grid)
        asking = _Asking(self._population, self._ask_over(grid, config))
        open_round = self.server.open_round(asking, state)
        assigned = [i for i in open_round.start(now_s=0.0) if isinstance(i, Assign)]
        tickets = [assign.ticket for assign in assigned]
        self._open = _Open(state=state, round=open_round, tickets=tickets, began_s=began_s)
        works = [Work(request=open_round.request(t), state=self._state_round(t)) for t in tickets]
        broadcast = broadcast_arrays(state.params, state.integers, open_round.channels)
        return self._messages(works, broadcast, config, MessageType.TRAIN, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the replies and make the next model.

        Raises:
            RoundAborted: Too few clients answered.
        """
        opened = self._open
        if opened is None:
            return None, None
        found = Replies.read(self._roster, replies)
        for ticket in opened.tickets:  # in the order of the cohort, whoever was first
            if opened.round.ended is None:
                answer = found.answers.get(ticket.client_id)
                why = found.why_none(self._roster, ticket.client_id)
                opened.round.handle(_event(ticket, answer, why))
        after = self.server.advance(opened.round, opened.state, self._population)
        report = self.server.report(opened.round, after, self._ledger)
        if self._stateful:
            self._state_rounds |= dict.fromkeys(opened.round.accepted(), after.round)
        self.state = after
        self._open = replace(opened, state=after, report=report)
        return self._arrays(after), _training_figures(report)

    # ---- evaluation

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return what clients are asked about the round's model, if they are asked."""
        opened = self._open
        if opened is None:
            return []
        ask = self._ask_over(grid, config)
        due = self.server.judging.asks_clients(opened.state.round)
        asked = self.server.judging.questions(opened.state, self._population) if due else []
        self._open = replace(opened, ask=ask, asked=asked)
        return self._questions(asked, config, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Judge the round by what clients found, and by what the server finds; the round ends."""
        opened = self._open
        if opened is None or opened.report is None or opened.ask is None:
            return None
        found = Replies.read(self._roster, replies)
        known = self._evaluations(opened.asked, found)
        asking = _Asking(self._population, opened.ask, known)
        past = [each.record.line() for each in self.reports]
        report = self.server.judged(asking, opened.state, opened.report, past, self._ledger)
        seconds = round(self.server.clock() - opened.began_s, 6)
        report = replace(report, record=replace(report.record, seconds=seconds))
        self._open = None
        self.reports.append(report)
        self._on_report(opened.state, report)
        return _clients_figures(report)

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Return the figures of a round's model on the global test examples; Flower's evaluate_fn.

        They were measured when the round ended, of the model that the server holds.
        """
        if self.server.test is None or not 0 < server_round <= len(self.reports):
            return None
        return _numbers(self.reports[server_round - 1].record.metrics) or None

    # ---- details

    @property
    def _is_over(self) -> bool:
        """Whether no round is left: all are done, or the experiment said when to stop."""
        last = self.reports[-1].record if self.reports else None
        return last is not None and (last.stopped is not None or last.round >= self.num_rounds)

    def _begun(self, arrays: ArrayRecord) -> ServerState:
        """Return the state before round 1, with the model that the user begins with.

        Raises:
            ParameterError: It does not fit, or nodes would begin with another one.
        """
        learner = self.server.learner
        initial, integers = learner.initial, learner.initial_integers
        own = _values(learner.model)
        learner.start_from(model_tensors(arrays), "initial_arrays")
        given, shared, counts = _values(learner.model), learner.initial, learner.initial_integers
        # What nodes begin with: tensors that never travel are what the experiment says.
        learner.model.load_state_dict(own)
        spec = learner.spec
        travels = shared[spec.shared], counts[spec.shared_integers]
        spec.write(learner.model, *spec.completed(*travels, initial, integers))
        there = learner.model.state_dict()
        other = [name for name in given if not torch.equal(given[name], there[name])]
        learner.model.load_state_dict(given)
        if other:
            raise ParameterError(
                "initial_arrays differs from the experiment in what never travels, frozen or "
                f"personal tensors ({len(other)}, such as {other[0]!r}), so nodes would train "
                "another model; name the file with them as task.initial, which nodes read too"
            )
        return self.server.initial_state()

    def _check_next(self, server_round: int, state: ServerState) -> None:
        if server_round != state.round + 1:
            raise RunFailed(
                f"round {server_round} was asked for after {state.round} rounds; a RoundelStrategy "
                "goes through its rounds once, so make a new one"
            )

    def _arrays(self, state: ServerState) -> ArrayRecord:
        return model_arrays(final_model(self.server, state).state_dict())

    def _state_round(self, ticket: Ticket) -> int:
        return self._state_rounds.get(ticket.client_id, 0)

    def _messages(
        self,
        works: Sequence[Work],
        broadcast: ArrayRecord,
        config: ConfigRecord,
        kind: str,
        server_round: int,
    ) -> list[Message]:
        config = ConfigRecord({**config, "server-round": server_round})
        return messages_of(self._roster, works, broadcast, config, kind)

    def _questions(
        self, requests: Sequence[EvaluateRequest], config: ConfigRecord, server_round: int
    ) -> list[Message]:
        if not requests:
            return []
        broadcast = broadcast_arrays(requests[0].params, requests[0].integers)
        works = [Work(request=each, state=self._state_round(each.ticket)) for each in requests]
        return self._messages(works, broadcast, config, MessageType.EVALUATE, server_round)

    def _evaluations(
        self, requests: Sequence[EvaluateRequest], found: Replies
    ) -> dict[Ticket, Evaluation | ClientFailure]:
        """Return what became of each question."""
        answers: dict[Ticket, Evaluation | ClientFailure] = {}
        for request in requests:
            ticket = request.ticket
            answer = found.answers.get(ticket.client_id)
            if isinstance(answer, Evaluation | ClientFailure) and answer.ticket == ticket:
                answers[ticket] = answer
            else:
                why = found.why_none(self._roster, ticket.client_id)
                answers[ticket] = ClientFailure(ticket=ticket, stage="evaluate", error=why)
        return answers

    def _ask_over(self, grid: Grid, config: ConfigRecord) -> "_Ask":
        """Return what asks clients at once, where Flower's loop does not."""

        def ask(
            requests: Sequence[EvaluateRequest],
        ) -> Mapping[Ticket, Evaluation | ClientFailure]:
            messages = self._questions(requests, config, requests[0].ticket.round)
            replies = grid.send_and_receive(messages, timeout=self.timeout_s)
            return self._evaluations(requests, Replies.read(self._roster, replies))

        return ask


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


_Ask = Callable[[Sequence[EvaluateRequest]], Mapping[Ticket, Evaluation | ClientFailure]]


@dataclass(frozen=True)
class _Asking:
    """Clients that evaluate, as the server knows them.

    Attributes:
        size: N, the population.
        ask: Asks them now.
        known: What they were asked before, and said.
    """

    size: int
    ask: _Ask
    known: Mapping[Ticket, Evaluation | ClientFailure] | None = None

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Return the answers, in the order asked."""
        known = self.known or {}
        if any(request.ticket not in known for request in requests):
            known = self.ask(requests)
        return [known[request.ticket] for request in requests]


@dataclass(frozen=True, kw_only=True)
class _Open:
    """A round between two calls of Flower's.

    Attributes:
        state: Before it, and once it has been aggregated after it.
        round: Its machine and sums.
        tickets: Who was asked, in the order of the cohort.
        began_s: When, by the server's clock.
        report: What there is to say about it before it is judged.
        ask: Asks clients about its model.
        asked: What they were asked.
    """

    state: ServerState
    round: OpenRound
    tickets: Sequence[Ticket]
    began_s: float
    report: RoundReport | None = None
    ask: _Ask | None = None
    asked: Sequence[EvaluateRequest] = ()


def _event(ticket: Ticket, answer: Answer | None, why: str) -> Event:
    """Return what became of a client's work."""
    match answer:
        case ClientUpdate() if answer.ticket == ticket:
            return UpdateArrived(answer)
        case ClientFailure() if answer.ticket == ticket:
            return ClientFailed(answer)
        case None:
            return ClientLost(ticket.client_id, why)
        case _:
            return ClientLost(ticket.client_id, "its node answered something else")


def _training_figures(report: RoundReport) -> MetricRecord:
    record = report.record
    counts = {name: getattr(record, name) for name in _KEPT_NUMBERS}
    return _numbers({"train_loss": record.train_loss, **counts})


def _clients_figures(report: RoundReport) -> MetricRecord | None:
    """Return the means over clients' own examples, and how many answered."""
    said = report.record.clients
    if said is None:
        return None
    means = {n: v["mean"] for n, v in said.items() if isinstance(v, Mapping)}
    return _numbers({**means, **{name: said[name] for name in ("asked", "answered", "examples")}})


def _numbers(values: Mapping[str, Any]) -> MetricRecord:
    return MetricRecord({n: v for n, v in values.items() if isinstance(v, int | float)})
