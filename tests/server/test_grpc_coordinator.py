"""The coordinator's end of the wire, over loopback: what it takes, and all that it refuses."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from math import nan
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc

from roundel.core.errors import ConfigError, SessionLost
from roundel.core.messages import ClientFailure, ClientUpdate, Evaluation
from roundel.core.metrics import Metrics
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_to_wire
from roundel.core.wire.limits import CHUNK
from roundel.core.wire.payload import digest_of, pack
from roundel.core.wire.versions import OURS, Version, mismatch
from roundel.server import grpc_coordinator, grpc_federation
from roundel.server.arrivals import Arrival, Hosting, Terms
from roundel.server.grpc_coordinator import LEASE_S, Coordinator, Progress
from roundel.server.store import Store
from tests.server.fake_node import TIMEOUT_S, FakeNode, dialling, refusal
from tests.server.toys import FakeClock, bits, ticket_of, update_of

TERMS = Terms(
    run="r", experiment='{"name": "toy"}', population=4, fingerprint="layout", update_limit=1000
)
OTHER_LAYOUT = (
    "node 'other' built a model of another layout than the coordinator's, or divided the examples "
    "in another way; install the same version of the task, of its data and of numpy on both"
)
HOSTED_ALREADY = (
    "client 1 is hosted by node 'edge' already; give node 'other' another share with --partition"
)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LOOPBACK = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def _no_farewell(monkeypatch):
    """Wait for nobody at the end: most nodes of these tests have left without a word."""
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def coordinator(clock) -> Iterator[Coordinator]:
    with Coordinator(TERMS, LOOPBACK, clock) as running:
        yield running


@pytest.fixture
def node(coordinator) -> Iterator[FakeNode]:
    """A node that hosts clients 0 and 1."""
    with dialling(coordinator.address, (0, 1)) as joined:
        yield joined


def arrival(coordinator: Coordinator) -> Arrival:
    """The next answer that has come in."""
    while not isinstance(incoming := coordinator.arrivals.get(timeout=TIMEOUT_S), Arrival):
        assert isinstance(incoming, Hosting)
    return incoming


def nothing_arrived(coordinator: Coordinator) -> bool:
    return not any(isinstance(incoming, Arrival) for incoming in coordinator.arrivals.queue)


def update_in(arrived: Arrival) -> ClientUpdate:
    assert isinstance(arrived.answer, ClientUpdate)
    return arrived.answer


def still_works(coordinator: Coordinator, node: FakeNode) -> None:
    """Carry one update all the way."""
    call = node.upload(update_of(0))
    arrival(coordinator).verdict.set_result(None)
    assert call.result(TIMEOUT_S).accepted


# ---- joining and hosting


def test_joining_tells_what_the_run_is_about(coordinator):
    with dialling(coordinator.address) as node:
        reply = node.join()
    assert (reply.run, reply.experiment) == ("r", '{"name": "toy"}')
    assert coordinator.nodes.seen(reply.session).name == "edge"


@pytest.mark.parametrize("major", [0, 2, 2**32 - 1])
def test_a_node_of_another_protocol_is_refused(coordinator, major):
    version = Version(major, OURS.minor)
    with dialling(coordinator.address) as node:
        assert refusal(lambda: node.join(version=version)) == (
            INVALID,
            mismatch("edge", version, OURS),
        )
        assert node.join().run == "r"


def test_a_node_one_minor_version_apart_is_let_in_and_two_apart_refused(coordinator):
    def later(minors: int) -> Version:
        return Version(OURS.major, OURS.minor + minors)

    with dialling(coordinator.address) as node:
        assert [node.join(version=later(minors)).minor for minors in (0, 1)] == [OURS.minor] * 2
        code, said = refusal(lambda: node.join(version=later(2)))
    assert code is INVALID
    assert said.endswith("which are too far apart; upgrade Roundel on the coordinator")


def test_health_checks_are_answered(coordinator):
    with grpc.insecure_channel(coordinator.address) as channel:
        stub: Any = health_pb_grpc.HealthStub(channel)

        def status(service: str) -> int:
            request = health_pb.HealthCheckRequest(service=service)
            reply = stub.Check(request, timeout=TIMEOUT_S, wait_for_ready=True)
            return reply.status

        serving = health_pb.HealthCheckResponse.SERVING
        assert [status(service) for service in ("", "roundel.v1.Federation")] == [serving] * 2
        assert refusal(lambda: status("another"))[0] is grpc.StatusCode.NOT_FOUND


def test_hosting_makes_clients_reachable(coordinator, node):
    assert coordinator.nodes.hosted() == 2
    assert coordinator.nodes.hosts(node.session, 1)


def test_hosting_says_how_often_to_call(coordinator):
    with dialling(coordinator.address) as node:
        node.join()
        assert node.host([3]).heartbeat_s == grpc_federation.HEARTBEAT_S


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            {"fingerprint": "other"},
            OTHER_LAYOUT,
        ),
        (
            {"population": 5},
            "node 'other' hosts clients of a population of 5, and the run has 4",
        ),
        (
            {"clients": [4]},
            "node 'other' hosts clients of a population of 4, and the run has 4",
        ),
        (
            {"clients": [2, -1]},
            "node 'other' hosts clients of a population of 4, and the run has 4",
        ),
        (
            {"clients": [2, 1]},
            HOSTED_ALREADY,
        ),
    ],
)
def test_a_node_that_does_not_fit_the_run_hosts_nothing(coordinator, node, how, sentence):
    with dialling(coordinator.address) as other:
        other.join("other")
        assert refusal(lambda: other.host(**{"clients": [2], **how})) == (INVALID, sentence)
    assert coordinator.nodes.hosted() == 2
    still_works(coordinator, node)


def test_every_call_but_joining_needs_a_session_of_this_coordinator(coordinator, node):
    update, ticket = update_of(0), ticket_of(0)
    coordinator.payloads[b"d"] = pack({})
    with dialling(coordinator.address) as stranger:
        stranger.session = "of another run"
        calls = [
            lambda: stranger.host([2]),
            stranger.poll,
            stranger.beat,
            lambda: stranger.download(pb.Payload(digest=b"d")),
            lambda: stranger.upload(update).result(TIMEOUT_S),
            lambda: stranger.fail(ticket).result(TIMEOUT_S),
            lambda: stranger.report(Evaluation(ticket=ticket, metrics=Metrics())).result(TIMEOUT_S),
        ]
        for call in calls:
            assert refusal(call) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "this node is not known here, or was silent for too long; join anew",
            )
    assert nothing_arrived(coordinator)
    still_works(coordinator, node)


# ---- polling


def test_a_poll_returns_the_work_that_waits_in_order(coordinator, node):
    for number in (1, 2):
        coordinator.nodes.send(1, pb.Work(commit=pb.Commit(round=number, client_ids=[1])))
    assert [node.poll().commit.round for _ in range(2)] == [1, 2]


def test_a_poll_waits_for_work(coordinator, node):
    call = node.stub.Poll.future(pb.PollRequest(session=node.session), timeout=TIMEOUT_S)
    node.beat()  # the poll before it has been taken in
    assert not call.done()
    coordinator.nodes.send(0, pb.Work(commit=pb.Commit(round=7)))
    assert call.result(TIMEOUT_S).commit.round == 7


def test_a_poll_without_work_comes_back_empty_after_a_while(coordinator, node, monkeypatch):
    monkeypatch.setattr(grpc_federation, "POLL_S", 0.01)
    assert node.poll().WhichOneof("kind") is None


def test_every_call_shows_that_the_node_is_alive(coordinator, node, clock):
    for call in (node.beat, lambda: still_works(coordinator, node), lambda: node.host([0, 1])):
        clock.now_s += 15
        call()
        assert coordinator.nodes.remove_silent(10) == []
    clock.now_s += 15
    (gone,) = coordinator.nodes.remove_silent(10)
    assert gone.session == node.session
    node.join()
    node.host([0, 1])


# ---- downloading


def test_a_payload_can_be_downloaded_from_any_offset(coordinator, node):
    packed = pack({"params": torch.arange(CHUNK / 2)})
    coordinator.payloads[packed.digest] = packed
    payload = pb.Payload(size=len(packed.data), digest=packed.digest)
    assert node.download(payload) == packed.data
    assert node.download(payload, offset=CHUNK + 1) == packed.data[CHUNK + 1 :]
    assert node.download(payload, offset=len(packed.data) + 5) == b""


def test_a_payload_that_is_offered_no_longer_is_not_found(coordinator, node):
    assert refusal(lambda: node.download(pb.Payload(digest=b"gone"))) == (
        grpc.StatusCode.NOT_FOUND,
        "this payload is not offered, or no longer",
    )
    still_works(coordinator, node)


@pytest.mark.parametrize(
    ("population", "clients", "seconds"),
    [(10, 1, 3.0), (450, 1, 3.0), (600, 1, 4.0), (600, 2, 3.0), (10**6, 1, 6.0), (10, 0, 3.0)],
)
def test_nodes_call_less_often_the_more_of_them_there_are(population, clients, seconds):
    assert grpc_federation.heartbeat_s(population, clients) == seconds


def test_updates_that_cannot_count_are_refused_before_they_are_taken_in(
    coordinator, node, monkeypatch
):
    def never(*_args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Store, "receiver", never)
    coordinator.progress = Progress(objection_to=lambda ticket: f"round {ticket.round} is over")
    verdict = node.upload(update_of(1)).result(TIMEOUT_S)
    assert verdict == pb.Verdict(accepted=False, reason="round 1 is over")
    (status,) = coordinator.nodes.statuses(10.0, {})
    assert status.failures == 1


def test_what_has_arrived_of_an_update_is_forgotten_once_it_cannot_count(coordinator, node):
    header, _ = node.parts(update_of(1))
    assert refusal(lambda: node.upload_parts([header]).result(TIMEOUT_S))[0] is INVALID
    inside = coordinator.nodes.seen(node.session)
    assert inside.unfinished is not None
    coordinator.progress = Progress(objection_to=lambda _ticket: "it is over")
    assert not node.upload(update_of(1)).result(TIMEOUT_S).accepted
    assert inside.unfinished is None


def test_silent_nodes_are_looked_for_now_and_then(coordinator, node, clock, monkeypatch):
    looked: list[float] = []
    monkeypatch.setattr(
        coordinator.nodes, "remove_silent", lambda lease_s: looked.append(clock.now_s) or []
    )
    began_s = clock.now_s
    for _ in range(5):
        coordinator.remove_silent()
        clock.now_s += 0.25
    assert [now_s - began_s for now_s in looked] == [0.0, 0.5, 1.0]


def test_a_beat_says_how_long_it_has_waited_to_be_accepted(coordinator, node, monkeypatch):
    waited_s: list[float] = []
    monkeypatch.setattr(coordinator, "note_wait", lambda _, wait_s: waited_s.append(wait_s))
    # Nodes wait for its answer as long as for the next, which is 3 s; of this one 1 s is left.
    node.stub.Beat(pb.BeatRequest(session=node.session), timeout=1.0)
    assert len(waited_s) == 1
    assert 1.9 < waited_s[0] <= 3.0


def test_a_beat_without_a_deadline_or_of_a_node_that_hosts_nothing_says_nothing(
    coordinator, node, monkeypatch
):
    waited_s: list[float] = []
    monkeypatch.setattr(coordinator, "note_wait", lambda _, wait_s: waited_s.append(wait_s))
    node.stub.Beat(pb.BeatRequest(session=node.session))
    with dialling(coordinator.address) as other:
        other.join("other")
        other.beat()
    assert waited_s == []


def test_nobody_counts_as_silent_for_the_time_in_which_the_coordinator_was_late(
    coordinator, node, clock
):
    for _ in range(12):
        for name in ("a", "b", "c"):
            coordinator.note_wait(name, 5.0)
        time.sleep(0.05)
    clock.now_s += LEASE_S + 0.2
    coordinator.remove_silent()
    assert coordinator.nodes.seen(node.session).clients == (0, 1)
    clock.now_s += 10 * LEASE_S
    coordinator.remove_silent()
    with pytest.raises(SessionLost):
        coordinator.nodes.seen(node.session)


def test_a_node_that_asks_for_work_does_nothing(coordinator, node):
    activity = pb.Activity(client_id=1, round=1, what="send")
    node.stub.Beat(pb.BeatRequest(session=node.session, activity=activity), timeout=TIMEOUT_S)
    inside = coordinator.nodes.seen(node.session)
    assert inside.activity is not None
    coordinator.nodes.send(0, pb.Work(commit=pb.Commit(round=7)))
    node.poll()
    assert inside.activity is None


# ---- answers


def test_an_update_arrives_whole_and_its_verdict_goes_back(coordinator, node):
    update = update_of(1, scalars={"steps": 2.0}, seconds=0.5)
    call = node.upload(update)
    arrived = arrival(coordinator)
    assert replace(update_in(arrived), channels=update.channels) == update
    assert bits(update_in(arrived).channels) == bits(update.channels)
    arrived.verdict.set_result(None)
    assert call.result(TIMEOUT_S) == pb.Verdict(accepted=True)


def test_the_reason_of_a_refusal_goes_back(coordinator, node):
    call = node.upload(update_of(1))
    arrival(coordinator).verdict.set_result("it is late")
    assert call.result(TIMEOUT_S) == pb.Verdict(accepted=False, reason="it is late")


def test_a_failure_arrives(coordinator, node):
    call = node.fail(ticket_of(0), "ValueError: bad row")
    arrived = arrival(coordinator)
    expected = ClientFailure(ticket=ticket_of(0), stage="train", error="ValueError: bad row")
    assert arrived.answer == expected
    arrived.verdict.set_result(None)
    assert call.result(TIMEOUT_S).accepted


def test_figures_arrive(coordinator, node):
    evaluation = Evaluation(ticket=ticket_of(1), metrics=Metrics({"loss": 0.1}, 3))
    call = node.report(evaluation)
    arrived = arrival(coordinator)
    assert arrived.answer == evaluation
    arrived.verdict.set_result(None)
    assert call.result(TIMEOUT_S).accepted


def test_numbers_that_are_not_finite_arrive_as_they_are_for_the_gate_to_judge(coordinator, node):
    update = update_of(1, (nan, 1.0), metrics=Metrics({"loss": nan}, 1))
    call = node.upload(update)
    arrived = arrival(coordinator)
    assert bits(update_in(arrived).channels) == bits(update.channels)
    arrived.verdict.set_result("no")
    assert not call.result(TIMEOUT_S).accepted


def test_answers_for_a_client_of_another_node_are_refused(coordinator, node):
    with dialling(coordinator.address, (2,), "other") as other:
        for call in (
            lambda: other.upload(update_of(1)).result(TIMEOUT_S),
            lambda: other.fail(ticket_of(1)).result(TIMEOUT_S),
            lambda: other.report_loss(ticket_of(1), 1.0).result(TIMEOUT_S),
            lambda: other.fail(ticket_of(3)).result(TIMEOUT_S),
        ):
            code, sentence = refusal(call)
            assert code is INVALID
            assert sentence in {f"this node does not host client {c}" for c in (1, 3)}
    assert nothing_arrived(coordinator)
    still_works(coordinator, node)


# ---- uploads that are none


def data(*chunks: bytes) -> list[pb.UploadPart]:
    return [pb.UploadPart(data=chunk) for chunk in chunks]


def broken_uploads(node: FakeNode) -> dict[str, tuple[list[pb.UploadPart], str]]:
    update = update_of(0)
    packed = pack(update.channels)
    header, *body = node.parts(update)
    garbage = (3).to_bytes(8, "little") + b"{]}" + b"\x00" * 5
    surrogate = (16).to_bytes(8, "little") + b'{"\\ud800":"xyz"}'
    return {
        "nothing at all": ([], "an upload must begin with its header"),
        "data first": (body, "an upload must begin with its header"),
        "an empty part first": ([pb.UploadPart()], "an upload must begin with its header"),
        "a second header": ([header, header, *body], "an upload has one header only"),
        "an empty part": ([header, pb.UploadPart(), *body], "an upload has one header only"),
        "a size above the limit": (
            [node.header(update, packed, size=1001), *body],
            "a payload of 1001 bytes is not between 8 and 1000 bytes",
        ),
        "a size beyond all memory": (
            [node.header(update, packed, size=2**63), *body],
            f"a payload of {2**63} bytes is not between 8 and 1000 bytes",
        ),
        "no size": (
            [node.header(update, packed, size=0), *body],
            "a payload of 0 bytes is not between 8 and 1000 bytes",
        ),
        "a size too small": (
            [node.header(update, packed, size=len(packed.data) - 1), *body],
            f"more than the announced {len(packed.data) - 1} bytes arrived",
        ),
        "a size too large": (
            [node.header(update, packed, size=len(packed.data) + 1), *body],
            f"{len(packed.data)} of {len(packed.data) + 1} announced bytes arrived",
        ),
        "half of it": (
            [header, *data(packed.data[:50])],
            f"50 of {len(packed.data)} announced bytes arrived",
        ),
        "a header alone": ([header], f"0 of {len(packed.data)} announced bytes arrived"),
        "another digest": (
            [node.header(update, packed, digest=b"x" * 32), *body],
            "the payload's digest differs from the announced one",
        ),
        "no digest": (
            [node.header(update, packed, digest=b""), *body],
            "the payload's digest differs from the announced one",
        ),
        "other bytes": (
            [header, *data(packed.data[:-1] + b"\x7f")],
            "the payload's digest differs from the announced one",
        ),
        "garbage for a header": (
            announced(node, garbage),
            "a payload's header is not JSON",
        ),
        "a name that is no text": (
            announced(node, surrogate),
            "the header's entry for tensor '\\ud800' is not valid",
        ),
        "bytes that no tensor claims": (
            announced(node, packed.data + b"\x00" * 8),
            "a payload has 8 bytes that no tensor claims",
        ),
    }


def announced(node: FakeNode, payload: bytes) -> list[pb.UploadPart]:
    """An upload of any bytes, announced as what they are."""
    digest = digest_of(payload)
    header = node.header(update_of(0), size=len(payload), digest=digest)
    return [header, *data(payload)]


def test_an_upload_that_is_none_is_refused_in_one_sentence_and_does_no_harm(coordinator, node):
    for name, (parts, sentence) in broken_uploads(node).items():
        code, details = refusal(lambda parts=parts: node.upload_parts(parts).result(TIMEOUT_S))
        assert code is INVALID, name
        assert details.startswith(sentence), name
        assert nothing_arrived(coordinator), name
    still_works(coordinator, node)


def test_a_message_larger_than_a_chunk_is_not_read(coordinator, node):
    parts = [node.header(update_of(0)), *data(b"x" * (CHUNK + (1 << 17)))]
    code, _ = refusal(lambda: node.upload_parts(parts).result(TIMEOUT_S))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    still_works(coordinator, node)


def test_an_upload_that_breaks_off_leaves_nothing_behind(coordinator, node):
    more = threading.Event()

    def endless():
        yield node.header(update_of(0))
        more.wait(TIMEOUT_S)

    call = node.stub.Upload.future(endless(), timeout=TIMEOUT_S)
    node.beat()
    call.cancel()
    more.set()
    assert nothing_arrived(coordinator)
    still_works(coordinator, node)


def test_a_node_that_hangs_up_before_the_verdict_does_no_harm(coordinator, node):
    call = node.upload(update_of(0, (9.0, 9.0)))
    arrived = arrival(coordinator)
    call.cancel()
    node.beat()  # what was said before it has been taken in
    arrived.verdict.set_result(None)
    still_works(coordinator, node)


# ---- broken connections


def large_update() -> ClientUpdate:
    return update_of(0, channels={"params": torch.arange(3 * CHUNK // 4, dtype=torch.float32)})


def progress(node: FakeNode, update: ClientUpdate) -> int:
    request = pb.ProgressRequest(
        session=node.session,
        ticket=ticket_to_wire(update.ticket),
        digest=pack(update.channels).digest,
    )
    return node.stub.Progress(request, timeout=TIMEOUT_S).offset


def broken_off(node: FakeNode, update: ClientUpdate, count: int) -> None:
    """Upload some parts of an update, wait until they have arrived, and hang up."""
    go_on = threading.Event()

    def some() -> Iterator[pb.UploadPart]:
        yield from node.parts(update)[:count]
        go_on.wait(TIMEOUT_S)

    call = node.stub.Upload.future(some(), timeout=TIMEOUT_S)
    while progress(node, update) < (count - 1) * CHUNK:
        time.sleep(0.01)
    call.cancel()
    go_on.set()


def rest(node: FakeNode, update: ClientUpdate, offset: int) -> list[pb.UploadPart]:
    header = node.header(update)
    header.header.offset = offset
    chunks = pack(update.channels).chunks(offset)
    return [header, *(pb.UploadPart(data=chunk) for chunk in chunks)]


def channels_of(arrived: Arrival) -> Any:
    assert isinstance(arrived.answer, ClientUpdate)
    return bits(arrived.answer.channels)


@pytest.fixture
def roomy(clock) -> Iterator[Coordinator]:
    with Coordinator(replace(TERMS, update_limit=4 * CHUNK), LOOPBACK, clock) as running:
        yield running


def test_an_upload_goes_on_where_its_connection_broke(roomy):
    update = large_update()
    with dialling(roomy.address, (0,)) as node:
        assert progress(node, update) == 0
        broken_off(node, update, 3)
        assert progress(node, update) == 2 * CHUNK
        assert progress(node, update_of(0)) == 0  # another payload
        call = node.upload_parts(rest(node, update, 2 * CHUNK))
        arrived = arrival(roomy)
        assert channels_of(arrived) == bits(update.channels)
        arrived.verdict.set_result(None)
        assert call.result(TIMEOUT_S).accepted
        assert progress(node, update) == 0


def test_what_arrived_twice_is_written_once(roomy):
    update = large_update()
    with dialling(roomy.address, (0,)) as node:
        broken_off(node, update, 3)
        call = node.upload_parts(rest(node, update, CHUNK + 7))
        arrived = arrival(roomy)
        assert channels_of(arrived) == bits(update.channels)
        arrived.verdict.set_result(None)
        assert call.result(TIMEOUT_S).accepted


def test_a_call_that_still_hangs_is_ended_by_the_one_that_goes_on(roomy):
    update, go_on = large_update(), threading.Event()

    def slow() -> Iterator[pb.UploadPart]:
        parts = node.parts(update)
        yield from parts[:2]
        go_on.wait(TIMEOUT_S)
        yield from parts[2:]

    with dialling(roomy.address, (0,)) as node:
        hanging = node.stub.Upload.future(slow(), timeout=TIMEOUT_S)
        while progress(node, update) < CHUNK:
            time.sleep(0.01)
        call = node.upload_parts(rest(node, update, CHUNK))
        arrived = arrival(roomy)
        go_on.set()
        assert refusal(hanging.result) == (INVALID, "this upload goes on in another call")
        assert channels_of(arrived) == bits(update.channels)
        arrived.verdict.set_result(None)
        assert call.result(TIMEOUT_S).accepted


def test_an_upload_cannot_go_on_beyond_what_has_arrived(roomy):
    update = large_update()
    with dialling(roomy.address, (0,)) as node:
        code, said = refusal(node.upload_parts(rest(node, update, CHUNK)).result)
        assert (code, said) == (INVALID, "nothing has arrived of the upload that is to go on")
        broken_off(node, update, 2)
        code, said = refusal(node.upload_parts(rest(node, update, 2 * CHUNK)).result)
        assert code is INVALID
        assert said == f"a payload cannot go on at byte {2 * CHUNK}: {CHUNK} have arrived"


def test_an_answer_that_is_sent_again_gets_the_verdict_that_it_got(coordinator, node):
    for send in (lambda: node.upload(update_of(0)), lambda: node.fail(ticket_of(0))):
        calls = [send()]
        arrived = arrival(coordinator)
        calls.append(send())
        arrived.verdict.set_result("it is late")
        assert [call.result(TIMEOUT_S).reason for call in [*calls, send()]] == ["it is late"] * 3
        assert nothing_arrived(coordinator)


# ---- the end


def test_all_nodes_hear_that_the_run_is_over(coordinator):
    with dialling(coordinator.address, (0,), "a") as a, dialling(coordinator.address, (1,)) as b:
        calls = [
            node.stub.Poll.future(pb.PollRequest(session=node.session), timeout=TIMEOUT_S)
            for node in (a, b)
        ]
        coordinator.dismiss()
        reasons = [call.result(TIMEOUT_S).over.reason for call in calls]
    assert reasons == ["the run is over"] * 2


def test_a_node_between_two_polls_hears_it_too(clock, monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", TIMEOUT_S)
    with Coordinator(TERMS, LOOPBACK, clock) as running, dialling(running.address, (0,)) as node:
        farewell = threading.Thread(target=running.dismiss)
        farewell.start()
        while not coordinator_is_leaving(running):
            node.beat()
        farewell.join(0.05)
        assert farewell.is_alive()
        assert node.poll().over.reason == "the run is over"
        farewell.join(TIMEOUT_S)
        assert not farewell.is_alive()


def coordinator_is_leaving(running: Coordinator) -> bool:
    return not running.nodes.wait_until_taken(0.0)


def test_what_waits_or_arrives_when_the_run_is_over_is_refused(coordinator, node):
    waiting = node.upload(update_of(0))
    coordinator.arrivals.put(arrival(coordinator))  # it is there, and nobody will judge it
    coordinator.dismiss()
    over = pb.Verdict(accepted=False, reason="the run is over")
    assert waiting.result(TIMEOUT_S) == over
    assert node.upload(update_of(1)).result(TIMEOUT_S) == over
    assert nothing_arrived(coordinator)


def test_the_nodes_are_told_once(coordinator, node):
    coordinator.dismiss()
    coordinator.dismiss()
    assert node.poll().over.reason == "the run is over"
    assert coordinator.nodes.take(node.session, node.taken, lambda: None) is None


def test_an_address_that_is_taken_is_an_error_with_the_remedy(coordinator, clock):
    with pytest.raises(ConfigError) as caught, Coordinator(TERMS, coordinator.address, clock):
        pass
    assert str(caught.value) == (
        f"cannot listen on {coordinator.address}: choose a free address with --listen"
    )


def test_nothing_listens_once_the_coordinator_has_stopped(clock):
    with Coordinator(TERMS, LOOPBACK, clock) as running:
        address = running.address
    with grpc.insecure_channel(address) as channel:
        request = pb.JoinRequest(protocol=1, node="late")
        code, _ = refusal(lambda: FakeNode(channel).stub.Join(request, timeout=TIMEOUT_S))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_node_that_waits_for_no_verdict_cannot_pile_answers_up(coordinator, node):
    calls = [node.fail(ticket_of(0), f"ValueError: {number}") for number in range(32)]
    waiting = [arrival(coordinator) for _ in calls]
    code, said = refusal(lambda: node.fail(ticket_of(0), "ValueError: 33").result(TIMEOUT_S))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert said.startswith("32 answers of node 'edge' wait for their verdicts")
    waiting[0].verdict.set_result(None)
    assert calls[0].result(TIMEOUT_S).accepted
    last = node.fail(ticket_of(0), "ValueError: 33")
    arrival(coordinator).verdict.set_result(None)
    assert last.result(TIMEOUT_S).accepted
    for one in waiting[1:]:
        one.verdict.set_result("it is late")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\nb", "x" * 65, ".hidden"])
def test_a_name_that_would_not_do_as_that_of_a_file_is_refused(coordinator, name):
    with dialling(coordinator.address) as stranger:
        code, said = refusal(lambda: stranger.join(name))
    assert code is INVALID
    assert "cannot be the name of a node" in said


def test_a_node_leaves_one_unfinished_upload_behind_however_it_begins_and_joins(clock, tmp_path):
    size = 300_000
    terms = replace(TERMS, update_limit=size)
    with (
        closing(Store.open(tmp_path, 20 * size)) as store,
        Coordinator(terms, LOOPBACK, clock, store=store) as coordinator,
        dialling(coordinator.address, (0,)) as node,
    ):

        def begin(name: int) -> None:
            announced = {"size": size, "digest": bytes([name]) * 32}
            parts = [node.header(update_of(0), **announced), pb.UploadPart(data=b"x")]
            calls = [node.upload_parts(parts) for _ in range(2)]
            for call in calls:
                refusal(lambda call=call: call.result(TIMEOUT_S))

        for name in range(3):
            begin(name)
            node.join()
            node.host([0])
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(begin, range(3, 19)))
        assert len(list((tmp_path / "spool").iterdir())) == 1
