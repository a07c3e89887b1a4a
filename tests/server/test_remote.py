"""Rounds over gRPC: real calls over loopback, nodes that a test speaks for, a clock by hand."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from math import nan
from typing import Any

import pytest
import torch

from roundel.core.messages import ClientFailure, EvaluateRequest, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_from_wire, ticket_to_wire
from roundel.server import grpc_coordinator, remote
from roundel.server.arrivals import NOBODY_WAITS, Terms
from roundel.server.grpc_coordinator import LEASE_S, Coordinator
from roundel.server.judging import EVALUATION_STAGE
from roundel.server.open_round import OpenRound
from roundel.server.remote import RemoteClients
from roundel.server.round import Abort, Commit, RoundTerms, Status
from roundel.server.store import Store
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import RoundContext
from tests.server.fake_node import TIMEOUT_S, FakeNode, dialling, refusal
from tests.server.toys import (
    SPEC,
    STRATEGY,
    FakeClock,
    bits,
    round_of,
    state_of,
    ticket_of,
    update_of,
)

TERMS = Terms(run="r", experiment="{}", population=4, fingerprint="layout", update_limit=1000)
DUPLICATE = "it is a duplicate: an update of this client was accepted already"


class Ended(Exception):
    """What ends a wait when its test has ended."""


class Federation:
    """A coordinator and its remote clients; rounds run beside the test."""

    def __init__(self, coordinator: Coordinator, clock: FakeClock) -> None:
        self.coordinator = coordinator
        self.clock = clock
        self.over = threading.Event()
        self.said: list[str] = []
        self.clients = RemoteClients(
            coordinator, 4, clock, watch=self._end_with_the_test, say=self.said.append
        )

    def _end_with_the_test(self) -> None:
        if self.over.is_set():
            raise Ended

    def beside(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run something in a thread of its own."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - the test sees it
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def train(self, open_round: OpenRound) -> "Future[Any]":
        """Begin a round, and wait until it is open or over."""
        before = self.coordinator.progress
        running = self.beside(lambda: self.clients.train(open_round))
        while self.coordinator.progress is before and not running.done():
            time.sleep(0.001)
        return running

    def evaluate(self, *requests: EvaluateRequest) -> "Future[Any]":
        return self.beside(lambda: self.clients.evaluate(requests))


@pytest.fixture
def federation(monkeypatch) -> Iterator[Federation]:
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    monkeypatch.setattr(remote, "_TICK_S", 0.01)
    clock = FakeClock()
    with Coordinator(TERMS, "127.0.0.1:0", clock) as running:
        federation = Federation(running, clock)
        yield federation
        federation.over.set()


@pytest.fixture
def a(federation) -> Iterator[FakeNode]:
    with dialling(federation.coordinator.address, (0, 2), "a") as node:
        yield node


@pytest.fixture
def b(federation) -> Iterator[FakeNode]:
    with dialling(federation.coordinator.address, (1, 3), "b") as node:
        yield node


def work_of(node: FakeNode) -> pb.Train:
    work = node.poll()
    assert work.WhichOneof("kind") == "train"
    return work.train


def verdict(call: Any) -> str:
    """Return the reason of a refusal, or nothing."""
    reply = call.result(TIMEOUT_S)
    assert reply.accepted == (reply.reason == "")
    return reply.reason


def send(node: FakeNode, client_id: int, delta=(0.5, -0.5), **changes) -> str:
    return verdict(node.upload(update_of(client_id, delta, **changes)))


def statuses(open_round: OpenRound) -> dict[int, str]:
    return {c: outcome.status.value for c, outcome in open_round.machine.outcomes.items()}


def reason(open_round: OpenRound, client_id: int) -> str:
    return open_round.machine.outcomes[client_id].reason


def next_round() -> OpenRound:
    terms = RoundTerms(run="r", round=2, cohort=(0, 1), target=2, quorum=1)
    return OpenRound(terms, STRATEGY, SPEC, replace(state_of(), round=1))


# ---- training


def test_updates_may_come_as_soon_as_the_work_is_out(federation, a, b, monkeypatch):
    said: list[str] = []
    queue = federation.coordinator.nodes.send

    def send_and_ask(client_id: int, work: pb.Work) -> str | None:
        session = queue(client_id, work)
        said.append(federation.coordinator.objection_to(ticket_from_wire(work.train.ticket)))
        return session

    monkeypatch.setattr(federation.coordinator.nodes, "send", send_and_ask)
    federation.clients.commit(0, [])
    running = federation.train(round_of((0, 1), target=2))
    assert [work_of(node).ticket.client_id for node in (a, b)] == [0, 1]
    assert [send(a, 0), send(b, 1)] == ["", ""]
    running.result(TIMEOUT_S)
    assert said == ["", ""]


def test_updates_of_no_open_round_are_refused_before_they_are_taken_in(
    federation, a, b, monkeypatch
):
    running = federation.train(round_of((0, 1), target=2))
    assert work_of(a).ticket.round == 1
    assert send(b, 1) == ""
    with monkeypatch.context() as patched:
        patched.setattr(Store, "receiver", None)
        assert send(a, 0, ticket=ticket_of(0, round=2)) == (
            "it belongs to round 2, stage 0 of run r, and this is round 1, stage 0 of run r"
        )
    assert send(a, 0) == ""
    running.result(TIMEOUT_S)
    monkeypatch.setattr(Store, "receiver", None)
    assert send(a, 0, (9.0, 9.0)) == NOBODY_WAITS
    federation.clients.commit(1, [0, 1])
    assert send(b, 1, (9.0, 9.0)) == NOBODY_WAITS


def test_a_round_that_nobody_takes_part_in_is_over_at_once(federation, a, b):
    nobody = round_of((0, 1, 2), absence=lambda client_id: f"client {client_id} is away")
    federation.train(nobody).result(TIMEOUT_S)
    assert isinstance(nobody.ended, Abort)
    assert statuses(nobody) == {0: "lost", 1: "lost", 2: "lost"}
    federation.train(next_round())
    assert work_of(a).ticket.round == 2  # no work of the first one was handed out


def test_a_round_that_nobody_was_drawn_for_is_committed_at_once(federation, a, b):
    terms = RoundTerms(run="r", round=1, cohort=(), target=0, quorum=0)
    nobody = OpenRound(terms, STRATEGY, SPEC, state_of())
    federation.train(nobody).result(TIMEOUT_S)
    assert isinstance(nobody.ended, Commit)
    federation.clients.commit(1, nobody.accepted())
    assert not federation.coordinator.payloads
    federation.train(next_round())
    assert work_of(a).ticket.round == 2  # nothing else was handed out


def test_a_round_that_needs_nobody_goes_on_without_those_that_are_away(federation):
    open_round = OpenRound(
        RoundTerms(run="r", round=1, cohort=(1,), target=1, quorum=0), STRATEGY, SPEC, state_of()
    )
    with dialling(federation.coordinator.address, (0, 2), "a"):
        federation.train(open_round).result(TIMEOUT_S)
    assert open_round.ended == Commit()
    assert statuses(open_round) == {1: "lost"}


def test_a_client_that_is_absent_is_sent_nothing(federation, a, b):
    open_round = round_of(
        (0, 1, 2), absence=lambda client_id: "it is away" if not client_id else None
    )
    running = federation.train(open_round)
    assert (work_of(a).ticket.client_id, work_of(b).ticket.client_id) == (2, 1)
    for node, client_id in ((a, 2), (b, 1)):
        assert send(node, client_id) == ""
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "lost", 1: "accepted", 2: "accepted"}


def test_a_round_goes_out_to_the_nodes_and_comes_back_summed(federation, a, b):
    open_round = round_of((0, 1, 2))
    running = federation.train(open_round)
    first, second, third = work_of(a), work_of(a), work_of(b)
    tickets = [ticket_from_wire(work.ticket) for work in (first, second, third)]
    assert tickets == [ticket_of(0), ticket_of(2), ticket_of(1)]
    assert first.base_version == 0
    assert send(a, 0, (1.0, 0.0)) == send(b, 1, (2.0, 0.0)) == send(a, 2, (3.0, 3.0)) == ""
    running.result(TIMEOUT_S)
    assert open_round.ended == Commit()
    context = RoundContext(round=1, population=4, selected=3, completed=3)
    assert open_round.accumulators.finish(context)["params"].tolist() == [2.0, 1.0]


def test_the_broadcast_is_made_once_for_all_and_holds_what_clients_need(federation, a, b):
    open_round = round_of((0, 1), scaffold())
    federation.train(open_round)
    to_a, to_b = work_of(a).payload, work_of(b).payload
    assert to_a == to_b
    state = state_of(scaffold())
    assert bits(a.broadcast(to_a)) == bits(
        {
            "params": state.params,
            "integers": state.integers,
            "channel/control": torch.zeros(2),
        }
    )
    assert list(federation.coordinator.payloads) == [to_a.digest]


def test_a_failure_is_written_down_and_the_round_goes_on(federation, a, b):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    assert verdict(a.fail(ticket_of(0), "ValueError: bad row")) == ""
    assert send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert open_round.ended == Commit()
    assert (statuses(open_round), reason(open_round, 0)) == (
        {0: "failed", 1: "accepted"},
        "ValueError: bad row",
    )


def test_a_refused_update_is_told_why_and_the_round_goes_on(federation, a, b):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    sentence = "its channel 'params' holds values that are not finite"
    assert send(a, 0, (nan, 1.0)) == sentence
    assert send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert open_round.ended == Commit()
    assert (statuses(open_round)[0], reason(open_round, 0)) == ("rejected", sentence)


def test_an_upload_sent_again_is_accepted_once_and_another_is_a_duplicate(federation, a, b):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    assert send(a, 0) == ""
    assert send(a, 0) == ""  # the same bytes: the node has not heard the verdict
    assert send(a, 0, (9.0, 9.0)) == DUPLICATE
    assert verdict(a.fail(ticket_of(0))) == DUPLICATE
    assert send(b, 1) == ""
    running.result(TIMEOUT_S)
    context = RoundContext(round=1, population=4, selected=2, completed=2)
    assert open_round.accumulators.finish(context)["params"].tolist() == [0.5, -0.5]


def test_a_late_update_of_a_former_round_is_refused(federation, a, b):
    former = round_of((0, 1), target=1)
    running = federation.train(former)
    assert send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert statuses(former) == {0: "unfinished", 1: "accepted"}
    open_round = next_round()
    running = federation.train(open_round)
    assert send(a, 0) == (
        "it belongs to round 1, stage 0 of run r, and this is round 2, stage 0 of run r"
    )
    for node, client_id in ((a, 0), (b, 1)):
        ticket = ticket_of(client_id, round=2)
        assert send(node, client_id, ticket=ticket, base_version=1) == ""
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "accepted", 1: "accepted"}


@pytest.mark.parametrize(
    ("ticket", "why"),
    [
        (ticket_of(0, run="q"), "it belongs to round 1, stage 0 of run q"),
        (ticket_of(0, stage=1), "it belongs to round 1, stage 1 of run r"),
        (ticket_of(0, attempt=1), "it answers attempt 1, and attempt 0 counts"),
        (ticket_of(2), "client 2 is not in the cohort of round 1"),
    ],
)
def test_an_update_with_a_ticket_that_was_not_given_is_refused(federation, a, b, ticket, why):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    assert send(a, 0, ticket=ticket).startswith(why)
    assert send(a, 0) == send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "accepted", 1: "accepted"}


def test_a_client_that_nobody_hosts_is_lost_at_once(federation, a):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    assert send(a, 0) == ""
    running.result(TIMEOUT_S)
    assert (statuses(open_round), reason(open_round, 1)) == (
        {0: "accepted", 1: "lost"},
        "no node hosts it",
    )


def wait_until_said(federation: Federation, count: int = 1) -> str:
    limit = time.monotonic() + TIMEOUT_S
    while len(federation.said) < count:
        assert time.monotonic() < limit
        time.sleep(0.005)
    return federation.said[-1]


def test_without_any_node_a_round_waits_for_one(federation):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    assert wait_until_said(federation) == (
        "round 1 waits for a node: 2 of its clients are away, and with 0 updates it needs 1 more"
    )
    with dialling(federation.coordinator.address, (0, 2), "a") as a:
        assert work_of(a).ticket.client_id == 0
        assert send(a, 0) == ""
        running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "accepted", 1: "lost"}


def test_a_round_waits_for_a_node_without_which_it_has_no_quorum(federation, a, b):
    open_round = round_of((0, 1), quorum=2)
    running = federation.train(open_round)
    work_of(a)
    assert send(b, 1) == ""
    federation.clock.now_s += LEASE_S * 1.5
    assert wait_until_said(federation) == (
        "round 1 waits for 'a': 1 of its clients are away, and with 1 updates it needs 1 more"
    )
    assert federation.coordinator.snapshot().open_round.missing == ("a",)
    a.join("a")
    a.host((0, 2))
    assert work_of(a).ticket.attempt == 0
    assert send(a, 0) == ""
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "accepted", 1: "accepted"}


def test_a_round_that_failures_left_without_its_quorum_waits_for_nobody_who_is_away(
    federation, a, b
):
    open_round = round_of((0, 1, 3), quorum=3)
    running = federation.train(open_round)
    work_of(a)
    assert verdict(b.fail(ticket_of(1))) == send(b, 3) == ""
    assert open_round.ended is None  # node a is still there
    federation.clock.now_s += LEASE_S * 1.5
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "lost", 1: "failed", 3: "accepted"}
    assert isinstance(open_round.ended, Abort)
    assert federation.said == []


def test_a_node_that_comes_back_is_asked_again_with_another_attempt(federation, a, b):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    work_of(a)
    federation.clock.now_s += LEASE_S * 0.75
    b.beat()
    federation.clock.now_s += LEASE_S * 0.75
    a.taken = 0
    while statuses(open_round)[0] != "lost":
        time.sleep(0.005)
    a.join("a")
    a.host((0, 2))
    assert work_of(a).ticket.attempt == 1
    assert send(a, 0) == "it answers attempt 0, and attempt 1 counts"
    assert send(a, 0, ticket=ticket_of(0, attempt=1)) == send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "accepted", 1: "accepted"}


def test_a_node_that_joins_again_at_once_gets_its_open_work_again_and_loses_nothing(
    federation, a, b
):
    open_round = round_of((0, 1, 2))
    running = federation.train(open_round)
    work_of(a)
    assert send(a, 0) == ""
    a.join("a")
    a.taken = 0
    a.host((0, 2))
    assert work_of(a).ticket == ticket_to_wire(ticket_of(2))
    assert send(a, 0) == ""  # the very update, in another session: its node has not heard
    assert send(a, 2) == send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert set(statuses(open_round).values()) == {"accepted"}
    assert open_round.bytes_up == 3 * 20


def test_a_client_moves_to_another_node_in_the_middle_of_a_round(federation, a, b):
    open_round = round_of((0, 1), quorum=2)
    running = federation.train(open_round)
    work_of(a)
    assert send(b, 1) == ""
    federation.clock.now_s += LEASE_S * 1.5
    wait_until_said(federation)
    with dialling(federation.coordinator.address, (0, 2), "c") as c:
        assert work_of(c).ticket.client_id == 0
        assert send(c, 0) == ""
        running.result(TIMEOUT_S)


def test_a_deadline_follows_the_median_of_those_that_answered(federation, a, b):
    terms = RoundTerms(run="r", round=1, cohort=(0, 1, 2), target=3, quorum=1, deadline_factor=3.0)
    open_round = OpenRound(terms, STRATEGY, SPEC, state_of())
    running = federation.train(open_round)
    work_of(a)
    federation.clock.now_s += 2.0
    assert send(b, 1) == ""
    federation.clock.now_s += 2.0
    b.beat()
    a.beat()
    assert send(a, 0) == ""  # two of three: the deadline is 3 times 3 seconds after the start
    assert federation.coordinator.snapshot().open_round.left_s == 5.0
    federation.clock.now_s += 5.0
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "accepted", 1: "accepted", 2: "unfinished"}


def test_a_node_that_falls_silent_is_lost_and_the_round_goes_on(federation, a, b):
    open_round = round_of((0, 1, 2))
    running = federation.train(open_round)
    work_of(a)
    federation.clock.now_s += LEASE_S * 0.75
    b.beat()
    federation.clock.now_s += LEASE_S * 0.75
    assert send(b, 1) == ""
    running.result(TIMEOUT_S)
    assert open_round.ended == Commit()
    assert statuses(open_round) == {0: "lost", 1: "accepted", 2: "lost"}
    assert reason(open_round, 2) == "its node 'a' was silent for 20 s"
    _, sentence = refusal(lambda: send(a, 0))
    assert sentence == "this node is not known here, or was silent for too long; join anew"


def test_a_node_that_comes_back_takes_part_in_the_next_round(federation, a, b):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    work_of(b)
    assert send(b, 1) == ""
    federation.clock.now_s += LEASE_S * 2
    running.result(TIMEOUT_S)
    assert statuses(open_round) == {0: "lost", 1: "accepted"}
    for node, clients, name in ((a, (0, 2), "a"), (b, (1, 3), "b")):
        node.join(name)
        node.host(clients)
    again = next_round()
    running = federation.train(again)
    assert [work_of(node).ticket.client_id for node in (a, b)] == [0, 1]
    for node, client_id in ((a, 0), (b, 1)):
        send(node, client_id, ticket=ticket_of(client_id, round=2), base_version=1)
    running.result(TIMEOUT_S)
    assert statuses(again) == {0: "accepted", 1: "accepted"}


def test_at_the_deadline_the_round_goes_on_with_what_arrived(federation, a, b):
    open_round = round_of((0, 1), deadline_s=5.0)
    running = federation.train(open_round)
    assert send(b, 1) == ""
    federation.clock.now_s += 5.0
    running.result(TIMEOUT_S)
    assert open_round.ended == Commit()
    assert reason(open_round, 0) == "the deadline passed"


def test_work_of_a_round_that_is_over_is_withdrawn(federation, a, b):
    open_round = round_of((0, 1, 2), deadline_s=5.0)
    running = federation.train(open_round)
    assert work_of(a).ticket.client_id == 0
    federation.clock.now_s += 5.0
    running.result(TIMEOUT_S)
    federation.clients.commit(1, [0])
    assert a.poll().WhichOneof("kind") == "commit"


def test_whoever_watches_can_end_the_wait(federation, a):
    running = federation.train(round_of((0, 2)))
    work_of(a)
    federation.over.set()
    with pytest.raises(Ended):
        running.result(TIMEOUT_S)


# ---- committing, states


def test_each_node_hears_which_of_its_clients_took_part(federation, a, b):
    federation.clients.commit(7, [0, 1, 2])
    assert [list(node.poll().commit.client_ids) for node in (a, b)] == [[0, 2], [1]]
    federation.clients.commit(8, [3])
    assert b.poll().commit == pb.Commit(round=8, client_ids=[3])


@pytest.mark.parametrize(("stateful", "states"), [(False, {}), (True, None)])
def test_states_that_clients_keep_are_not_at_hand(stateful, states):
    coordinator = Coordinator(replace(TERMS, stateful=stateful), "127.0.0.1:0", FakeClock())
    clients = RemoteClients(coordinator, 4, FakeClock())
    assert clients.states() == states
    assert clients.size == 4


# ---- evaluating


def evaluation_ticket(client_id: int, round: int = 1) -> Ticket:
    return ticket_of(client_id, round=round, stage=EVALUATION_STAGE)


def request_of(client_id: int, split: str = "test") -> EvaluateRequest:
    state = state_of()
    return EvaluateRequest(
        ticket=evaluation_ticket(client_id),
        params=state.params,
        integers=state.integers,
        split=split,
    )


def figures(client_id: int, loss: float) -> Evaluation:
    return Evaluation(ticket=evaluation_ticket(client_id), metrics=Metrics({"loss": loss}, 1))


def test_figures_come_back_in_the_order_asked(federation, a, b):
    running = federation.evaluate(request_of(2, "validation"), request_of(1), request_of(0))
    work = a.poll().evaluate
    assert (work.ticket, work.split) == (ticket_to_wire(evaluation_ticket(2)), "validation")
    assert bits(a.broadcast(work.payload)) == bits(
        {"params": state_of().params, "integers": state_of().integers}
    )
    for node, client_id in ((a, 0), (b, 1), (a, 2)):
        assert verdict(node.report_loss(evaluation_ticket(client_id), client_id + 0.5)) == ""
    assert running.result(TIMEOUT_S) == [figures(2, 2.5), figures(1, 1.5), figures(0, 0.5)]


def test_a_client_that_cannot_be_evaluated_is_a_failure(federation, a, b):
    running = federation.evaluate(request_of(0), request_of(1))
    assert verdict(a.fail(evaluation_ticket(0), "ValueError: no test rows")) == ""
    assert verdict(b.report_loss(evaluation_ticket(1), 1.0)) == ""
    failure, evaluation = running.result(TIMEOUT_S)
    assert (failure.error, evaluation) == ("ValueError: no test rows", figures(1, 1.0))


def test_clients_without_a_node_are_failures(federation, a):
    running = federation.evaluate(request_of(0), request_of(1))
    assert verdict(a.report_loss(evaluation_ticket(0), 1.0)) == ""
    assert running.result(TIMEOUT_S) == [
        figures(0, 1.0),
        ClientFailure(ticket=evaluation_ticket(1), stage="evaluate", error="its node is gone"),
    ]


def test_a_node_that_falls_silent_ends_nobodys_evaluation_but_its_own(federation, a, b):
    running = federation.evaluate(request_of(0), request_of(1), request_of(2))
    a.poll()
    federation.clock.now_s += LEASE_S * 0.75
    b.beat()
    federation.clock.now_s += LEASE_S * 0.75
    assert verdict(b.report_loss(evaluation_ticket(1), 1.0)) == ""
    lost, answered, also_lost = running.result(TIMEOUT_S)
    assert answered == figures(1, 1.0)
    assert [answer.error for answer in (lost, also_lost)] == ["its node is gone"] * 2


def test_without_any_node_every_evaluation_fails_at_once(federation):
    answers = federation.evaluate(request_of(0), request_of(1)).result(TIMEOUT_S)
    assert [answer.error for answer in answers] == ["its node is gone"] * 2


def test_only_the_first_figures_of_a_client_count(federation, a, b):
    running = federation.evaluate(request_of(0), request_of(1))
    assert verdict(a.report_loss(evaluation_ticket(0), 1.0)) == ""
    assert verdict(a.report_loss(evaluation_ticket(0), 9.0)) == NOBODY_WAITS
    assert verdict(b.report_loss(evaluation_ticket(1), 2.0)) == ""
    assert running.result(TIMEOUT_S) == [figures(0, 1.0), figures(1, 2.0)]


def test_late_answers_to_the_training_are_no_answers_to_the_evaluation(federation, a, b):
    running = federation.evaluate(request_of(0), request_of(1))
    assert verdict(a.fail(ticket_of(0))) == NOBODY_WAITS
    assert send(a, 0) == NOBODY_WAITS
    assert verdict(a.report_loss(evaluation_ticket(0, round=9), 1.0)) == NOBODY_WAITS
    assert verdict(a.report_loss(evaluation_ticket(2), 1.0)) == NOBODY_WAITS
    for node, client_id in ((a, 0), (b, 1)):
        assert verdict(node.report_loss(evaluation_ticket(client_id), 1.0)) == ""
    assert running.result(TIMEOUT_S) == [figures(0, 1.0), figures(1, 1.0)]


def test_late_figures_do_not_disturb_a_round(federation, a, b):
    open_round = round_of((0, 1))
    running = federation.train(open_round)
    late = verdict(a.report_loss(evaluation_ticket(0), 1.0))
    assert late == "it is late: this evaluation is over"
    assert open_round.machine.outcomes[0].status is Status.ASSIGNED
    assert send(a, 0) == send(b, 1) == ""
    running.result(TIMEOUT_S)


def test_an_evaluation_ends_at_its_deadline(federation, a, b):
    clients = RemoteClients(
        federation.coordinator,
        4,
        federation.clock,
        watch=federation._end_with_the_test,
        evaluation_s=5.0,
    )
    running = federation.beside(lambda: clients.evaluate([request_of(0), request_of(1)]))
    a.poll()
    assert verdict(b.report_loss(evaluation_ticket(1), 1.0)) == ""
    federation.clock.now_s += 5.0
    late, answered = running.result(TIMEOUT_S)
    assert (late.error, answered) == ("the deadline passed", figures(1, 1.0))


def test_an_evaluation_is_asked_for_again_of_a_node_that_joins_again(federation, a):
    running = federation.evaluate(request_of(0), request_of(2))
    a.poll()
    assert verdict(a.report_loss(evaluation_ticket(0), 0.5)) == ""
    a.join("a")
    a.taken = 0
    a.host((0, 2))
    assert a.poll().evaluate.ticket == ticket_to_wire(evaluation_ticket(2))
    assert verdict(a.report_loss(evaluation_ticket(2), 2.5)) == ""
    assert running.result(TIMEOUT_S) == [figures(0, 0.5), figures(2, 2.5)]
