"""A coordinator that was killed goes on: what it had acknowledged is not asked for again."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from roundel.core.errors import RunDirectoryError, RunFailed
from roundel.core.messages import ClientFailure, EvaluateRequest, Evaluation
from roundel.core.metrics import Metrics
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_from_wire, ticket_to_wire
from roundel.core.wire.payload import pack
from roundel.server import grpc_coordinator, remote, store
from roundel.server.arrivals import Terms
from roundel.server.grpc_coordinator import LEASE_S, Coordinator
from roundel.server.journal import EndedRound
from roundel.server.judging import SURVEY_STAGE
from roundel.server.open_round import OpenRound
from roundel.server.recovery import end_again
from roundel.server.round import Commit, Outcome, Status
from roundel.server.store import Store
from roundel.strategies.sites import RoundContext
from tests.server.fake_node import TIMEOUT_S, FakeNode, dialling, refusal
from tests.server.test_remote import Federation, send, statuses, verdict, work_of
from tests.server.toys import FakeClock, round_of, state_of, ticket_of, update_of

TERMS = Terms(run="r", experiment="{}", population=4, fingerprint="layout", update_limit=1000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    monkeypatch.setattr(remote, "_TICK_S", 0.01)


@contextmanager
def serving(path: Path, terms: Terms = TERMS) -> Iterator[Federation]:
    """A coordinator with what earlier ones have left in this directory; it crashes at the end."""
    kept, clock = Store.open(path, 10**6), FakeClock()
    coordinator = Coordinator(terms, "127.0.0.1:0", clock, store=kept)
    with coordinator, closing(kept):
        federation = Federation(coordinator, clock)
        try:
            yield federation
        finally:
            federation.over.set()
            coordinator._over = True  # tells no node that the run is over


@contextmanager
def nodes(federation: Federation) -> Iterator[tuple[FakeNode, FakeNode]]:
    address = federation.coordinator.address
    with dialling(address, (0, 2), "a") as a, dialling(address, (1, 3), "b") as b:
        yield a, b


def mean_of(open_round: OpenRound) -> list[float]:
    context = RoundContext(round=1, population=4, selected=3, completed=len(open_round.accepted()))
    means: list[float] = open_round.accumulators.finish(context)["params"].tolist()
    return means


@pytest.mark.parametrize("in_journal", [0, 1 << 18], ids=["in files", "in the journal"])
def test_an_open_round_goes_on_with_what_was_accepted(tmp_path, monkeypatch, in_journal):
    monkeypatch.setattr(store, "IN_JOURNAL", in_journal)
    with serving(tmp_path) as federation, nodes(federation) as (a, _):
        federation.train(round_of((0, 1, 2), quorum=3))
        assert send(a, 0, (1.0, 0.0)) == ""
    spooled = list((tmp_path / "spool").iterdir())
    assert len(spooled) == (not in_journal)
    with serving(tmp_path) as federation, nodes(federation) as (a, b):
        open_round = round_of((0, 1, 2), quorum=3)
        running = federation.train(open_round)
        assert ticket_from_wire(work_of(a).ticket) == ticket_of(2)  # and nothing for client 0
        assert send(a, 0, (1.0, 0.0)) == ""  # its node had not heard the verdict
        assert send(a, 0, (9.0, 9.0)).startswith("it is a duplicate")
        assert send(b, 1, (2.0, 0.0)) == send(a, 2, (3.0, 3.0)) == ""
        running.result(TIMEOUT_S)
        assert open_round.ended == Commit()
        assert mean_of(open_round) == [2.0, 1.0]
        assert open_round.bytes_up == 4 * 20  # the duplicate came, too


def test_an_upload_goes_on_where_it_was_when_the_coordinator_died(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_JOURNAL", 0)
    update = update_of(0)
    packed = pack(update.channels)

    def parts(node: FakeNode, begin: int, end: int) -> Iterator[pb.UploadPart]:
        header = node.header(update)
        header.header.offset = begin
        yield header
        yield pb.UploadPart(data=packed.data[begin:end])

    def progress(node: FakeNode) -> int:
        ticket = ticket_to_wire(update.ticket)
        request = pb.ProgressRequest(session=node.session, ticket=ticket, digest=packed.digest)
        return int(node.stub.Progress(request, timeout=TIMEOUT_S).offset)

    with serving(tmp_path) as federation, nodes(federation) as (a, _):
        code, _ = refusal(lambda: a.upload_parts(parts(a, 0, 50)).result(TIMEOUT_S))
        assert code is grpc.StatusCode.INVALID_ARGUMENT  # no more came
        assert progress(a) == 50
    with serving(tmp_path) as federation, nodes(federation) as (a, _):
        open_round = round_of((0,))
        running = federation.train(open_round)
        work_of(a)
        assert progress(a) == 50
        assert verdict(a.upload_parts(parts(a, 50, packed.size))) == ""
        running.result(TIMEOUT_S)
        assert mean_of(open_round) == [0.5, -0.5]


def test_a_round_that_had_ended_ends_again_without_any_node(tmp_path):
    with serving(tmp_path) as federation, nodes(federation) as (a, _):
        ended = round_of((0, 1, 2))
        running = federation.train(ended)
        work_of(a)
        assert send(a, 0, (1.0, 0.0)) == ""
        assert verdict(a.fail(ticket_of(2), "ValueError: bad row")) == ""
        federation.clock.now_s += LEASE_S * 0.75
        a.beat()
        federation.clock.now_s += LEASE_S * 0.75
        running.result(TIMEOUT_S)
    assert statuses(ended) == {0: "accepted", 1: "lost", 2: "failed"}
    with serving(tmp_path) as federation:
        again = round_of((0, 1, 2))
        federation.train(again).result(TIMEOUT_S)
    assert again.ended == Commit()
    assert again.machine.outcomes == ended.machine.outcomes
    assert again.client_records() == ended.client_records()
    assert (again.bytes_up, again.bytes_down) == (ended.bytes_up, ended.bytes_down)
    assert mean_of(again) == mean_of(ended) == [1.0, 0.0]


@pytest.mark.parametrize("status", ["rejected", "unfinished"])
def test_every_kind_of_outcome_comes_back(tmp_path, status):
    outcomes = {1: Outcome(Status(status), 0, "why"), 2: Outcome(Status.LOST, 0, "gone")}
    ended = EndedRound(outcomes=outcomes, bytes_up=1, bytes_down=2)
    kept = Store.in_memory()
    open_round = round_of((1, 2), quorum=1)
    open_round.start(0.0)
    end_again(open_round, ended, kept)
    assert statuses(open_round) == {1: status, 2: "lost"}
    kept.close()


def test_a_round_that_asks_others_than_it_did_is_refused():
    kept = Store.in_memory()
    open_round = round_of((1, 2))
    open_round.start(0.0)
    ended = EndedRound(outcomes={1: Outcome(Status.LOST)}, bytes_up=0, bytes_down=0)
    with pytest.raises(RunFailed, match=r"^round 1 asks other clients now than when it ended;"):
        end_again(open_round, ended, kept)
    kept.close()


def test_a_round_that_lacks_what_it_had_accepted_is_refused():
    kept = Store.in_memory()
    open_round = round_of((1,))
    open_round.start(0.0)
    ended = EndedRound(outcomes={1: Outcome(Status.ACCEPTED)}, bytes_up=0, bytes_down=0)
    with pytest.raises(RunFailed, match=r"had accepted the updates of clients \[1\], and now acc"):
        end_again(open_round, ended, kept)
    kept.close()


def test_a_survey_is_answered_once(tmp_path):
    def request(client_id: int) -> EvaluateRequest:
        state = state_of()
        return EvaluateRequest(
            ticket=ticket_of(client_id, round=0, stage=SURVEY_STAGE),
            params=state.params,
            integers=state.integers,
            split="train",
        )

    asked = (request(0), request(3))
    with serving(tmp_path) as federation, dialling(federation.coordinator.address, (0,)) as a:
        running = federation.evaluate(*asked)
        verdict(a.report(Evaluation(ticket=asked[0].ticket, metrics=Metrics({"loss": 0.1}, 1))))
        answers = running.result(TIMEOUT_S)
    assert isinstance(answers[1], ClientFailure)
    with serving(tmp_path) as federation:  # without any node
        assert federation.evaluate(*asked).result(TIMEOUT_S) == answers


# ---- states that clients keep


def host(node: FakeNode, *states: tuple[int, int, int]) -> dict[int, int]:
    """Host clients with these states (client, committed, pending); return which ones count."""
    request = pb.HostRequest(
        session=node.session,
        client_ids=[client for client, _, _ in states],
        population=4,
        fingerprint="layout",
        states=[pb.HeldState(client_id=c, committed=r, pending=p) for c, r, p in states],
    )
    reply = node.stub.Host(request, timeout=TIMEOUT_S)
    return {settled.client_id: settled.round for settled in reply.settled}


def test_a_node_hears_which_of_its_states_counts(tmp_path):
    with serving(tmp_path, replace(TERMS, stateful=True)) as federation:
        accepted = {0: Outcome(Status.ACCEPTED), 1: Outcome(Status.ACCEPTED)}
        ended = EndedRound(outcomes=accepted, bytes_up=0, bytes_down=0)
        federation.coordinator.store.journal.end_round(3, ended)
        with dialling(federation.coordinator.address) as node:
            node.join()
            # Counted and not heard of; counted and kept; never counted, waiting for round 4.
            assert host(node, (0, 2, 3), (1, 3, 4), (2, 0, 4)) == {0: 3, 1: 3, 2: 0}
            assert federation.coordinator.nodes.hosted() == 3
            for state in ((0, 2, 2), (0, 4, 0), (2, 1, 0)):
                _, sentence = refusal(lambda state=state: host(node, state))
                assert sentence == (
                    f"node 'edge' holds the state of client {state[0]} as of round {state[1]}, and "
                    f"that of round {3 if state[0] == 0 else 0} counts; join with the --state "
                    "directory of the node that hosted this client"
                )
            assert federation.coordinator.nodes.hosted() == 0


def test_a_client_that_keeps_nothing_is_hosted_by_a_node_without_its_state(tmp_path):
    with serving(tmp_path, replace(TERMS, stateful=True, may_keep=bool)) as federation:
        accepted = {0: Outcome(Status.ACCEPTED), 1: Outcome(Status.ACCEPTED)}
        ended = EndedRound(outcomes=accepted, bytes_up=0, bytes_down=0)
        federation.coordinator.store.journal.end_round(3, ended)
        with dialling(federation.coordinator.address) as node:
            node.join()
            node.host([0])
            for wrong in (lambda: node.host([1]), lambda: host(node, (0, 2, 0))):
                code, sentence = refusal(wrong)
                assert "and that of round 3 counts" in sentence
            assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_without_states_any_node_hosts_any_client(tmp_path):
    with serving(tmp_path) as federation:
        accepted = {0: Outcome(Status.ACCEPTED)}
        ended = EndedRound(outcomes=accepted, bytes_up=0, bytes_down=0)
        federation.coordinator.store.journal.end_round(3, ended)
        with dialling(federation.coordinator.address, (0,)):
            assert federation.coordinator.nodes.hosted() == 1


# ---- nodes with examples of their own


def test_a_name_is_the_same_client_also_after_a_restart(tmp_path):
    def seat(federation: Federation, name: str) -> int:
        with dialling(federation.coordinator.address) as node:
            node.join(name)
            request = pb.HostRequest(
                session=node.session, population=4, fingerprint="layout", own_data=True
            )
            return node.stub.Host(request, timeout=TIMEOUT_S).client_id

    terms = replace(TERMS, own_data=True)
    with serving(tmp_path, terms) as federation:
        assert [seat(federation, name) for name in ("x", "y", "x")] == [0, 1, 0]
    with serving(tmp_path, terms) as federation:
        assert [seat(federation, name) for name in ("z", "y")] == [2, 1]
        assert federation.coordinator.nodes.hosted() == 2


def test_a_seat_is_given_without_waiting_for_the_journal_on_the_event_loop(tmp_path, monkeypatch):
    with serving(tmp_path, replace(TERMS, own_data=True)) as federation:
        asked: list[str] = []
        monkeypatch.setattr(federation.coordinator.store.journal, "fact", asked.append)
        with dialling(federation.coordinator.address) as node:
            node.join("x")
            request = pb.HostRequest(
                session=node.session, population=4, fingerprint="layout", own_data=True
            )
            assert node.stub.Host(request, timeout=TIMEOUT_S).client_id == 0
        assert asked == []


# ---- a disk that is full


def test_once_the_disk_is_full_the_run_stops_and_its_nodes_try_again_later(tmp_path):
    with serving(tmp_path) as federation, nodes(federation) as (a, _):
        journal = federation.coordinator.store.journal
        running = federation.train(round_of((0, 1), quorum=2))
        work_of(a)
        journal._put("PRAGMA query_only = 1").result(TIMEOUT_S)
        code, _ = refusal(lambda: send(a, 0))
        assert code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(RunDirectoryError, match=r"free some space, then resume the run$"):
            running.result(TIMEOUT_S)
