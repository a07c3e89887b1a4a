"""Who may call what, and what is refused before it is read."""

from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc

from roundel.core.audit import verify
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import dial
from roundel.server import grpc_metering
from roundel.server.authority_files import read_operator
from roundel.server.budgets import NODE, Limits, Rate
from roundel.server.grpc_guard import Guard
from tests.server.fake_node import refusal
from tests.server.grpc_secured import TIMEOUT_S, Time, enrolled, federation, secured

DENIED = grpc.StatusCode.PERMISSION_DENIED
PART = pb.UploadPart(data=b"x" * 1000)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ports(tmp_path, time):
    with secured(tmp_path / "authority", time) as opened:
        yield opened


@pytest.fixture
def edge(ports, time, tmp_path):
    """The calls of an enrolled node."""
    with federation(ports.address, enrolled(ports, time, tmp_path / "edge")) as stub:
        yield stub


@pytest.fixture
def operator(ports, tmp_path):
    with dial(ports.address, read_operator(tmp_path / "authority")) as channel:
        yield channel


def audited(tmp_path) -> str:
    path = tmp_path / "authority" / "audit.jsonl"
    assert verify(path).problem == ""
    return path.read_text()


def test_all_four_kinds_of_calls_come_through_with_their_caller(ports, edge):
    edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
    assert edge.Upload(iter([PART] * 3), timeout=TIMEOUT_S).accepted
    chunks = edge.Download(pb.DownloadRequest(offset=3), timeout=TIMEOUT_S)
    assert [chunk.data for chunk in chunks] == [b"\0", b"\1", b"\2"]
    assert (ports.federation.callers, ports.federation.parts) == (["edge"], 3)


def test_a_node_cannot_speak_for_another_one(edge):
    assert edge.Join(pb.JoinRequest(node="edge"), timeout=TIMEOUT_S).session == "s"
    with pytest.raises(grpc.RpcError, match="is that of node 'edge', which cannot speak for node"):
        edge.Join(pb.JoinRequest(node="other"), timeout=TIMEOUT_S)


def test_a_node_cannot_call_what_is_the_operator_s(ports, edge, time, tmp_path):
    identity = enrolled(ports, time, tmp_path / "other", "other")
    with dial(ports.address, identity) as channel:
        stub = pb_grpc.OperatorStub(channel)
        for call in (
            lambda: stub.Status(pb.StatusRequest(), timeout=TIMEOUT_S),
            lambda: stub.Revoke(pb.RevokeRequest(node="edge"), timeout=TIMEOUT_S),
            lambda: stub.IssueToken(pb.IssueTokenRequest(), timeout=TIMEOUT_S),
        ):
            code, said = refusal(call)
            assert code is DENIED
            assert said == "the certificate of node 'other' does not allow this call"
    edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)


def test_the_operator_cannot_call_what_is_a_node_s(ports, operator):
    stub = pb_grpc.FederationStub(operator)
    code, said = refusal(lambda: stub.Upload(iter([PART]), timeout=TIMEOUT_S))
    assert (code, ports.federation.parts) == (DENIED, 0)
    assert said == "the certificate of operator 'operator' does not allow this call"


def test_health_checks_need_a_certificate_and_no_more(ports, edge, operator, time, tmp_path):
    def unheard_of(channel: grpc.Channel) -> None:
        request = health_pb.HealthCheckRequest(service="unheard of")
        stub: Any = health_pb_grpc.HealthStub(channel)
        stub.Check(request, timeout=TIMEOUT_S)

    with dial(ports.address, enrolled(ports, time, tmp_path / "other", "other")) as node:
        for channel in (node, operator):
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):  # the service itself says that
                unheard_of(channel)


def test_a_revoked_node_is_refused_from_its_next_call_on_over_the_same_connection(
    ports, edge, time, tmp_path
):
    edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
    ports.authority.revoke("edge", "lost", time.now)
    for _ in range(3):
        code, said = refusal(lambda: edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S))
        assert code is DENIED
        assert said.startswith("the certificate of node 'edge' was revoked; to come back, remove")
    assert ports.federation.callers == ["edge"]
    assert audited(tmp_path).count('"event": "refused"') == 1  # however often it calls


def test_the_operator_is_refused_once_its_certificate_is_deleted(ports, operator, tmp_path):
    stub = pb_grpc.OperatorStub(operator)
    stub.Status(pb.StatusRequest(), timeout=TIMEOUT_S)
    (tmp_path / "authority" / "operator.pem").unlink()
    code, said = refusal(lambda: stub.Status(pb.StatusRequest(), timeout=TIMEOUT_S))
    assert code is DENIED
    assert said.startswith("the certificate of operator 'operator' was replaced; copy ca.pem")


def test_what_a_revoked_node_is_sending_ends_at_its_next_message(ports, edge, time):
    def parts():
        yield PART
        ports.authority.revoke("edge", "lost", time.now)
        while True:
            yield PART

    code, _ = refusal(lambda: edge.Upload(parts(), timeout=TIMEOUT_S))
    assert code is DENIED
    assert ports.federation.parts <= 1


def test_what_a_revoked_node_is_sent_ends_at_its_next_message(ports, edge, time):
    chunks = edge.Download(pb.DownloadRequest(offset=100_000), timeout=TIMEOUT_S)
    next(chunks)
    ports.authority.revoke("edge", "lost", time.now)
    with pytest.raises(grpc.RpcError, match="was revoked"):
        list(chunks)


def test_a_node_that_is_revoked_while_it_waits_for_work_gets_none(ports, edge, time):
    poll = edge.Poll.future(pb.PollRequest(), timeout=TIMEOUT_S)
    assert ports.federation.polled.wait(TIMEOUT_S)
    ports.authority.revoke("edge", "lost", time.now)
    ports.federation.work.set()
    assert refusal(poll.result)[0] is DENIED


def test_a_certificate_that_expires_while_its_node_is_connected_counts_no_more(edge, time):
    edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
    time.pass_by(days=31)
    code, said = refusal(lambda: edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert said.startswith("the certificate of node 'edge' expired at ")


def test_a_compressed_message_is_refused_before_it_is_inflated(ports, edge):
    with pytest.raises(grpc.RpcError, match="Compression algorithm 'gzip' is disabled"):
        edge.Beat(
            pb.BeatRequest(session="x" * 5000),
            compression=grpc.Compression.Gzip,
            timeout=TIMEOUT_S,
        )
    assert ports.federation.callers == []


def test_what_is_no_message_is_refused(ports, time, tmp_path):
    with dial(ports.address, enrolled(ports, time, tmp_path / "edge")) as channel:
        beat = channel.unary_unary("/roundel.v1.Federation/Beat")
        code, said = refusal(lambda: beat(b"\xff\xff\xff", timeout=TIMEOUT_S))
        assert (code, said) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "this is no message of this call",
        )
        silent = channel.stream_unary("/roundel.v1.Federation/Beat")
        assert refusal(lambda: silent(iter([]), timeout=TIMEOUT_S))[1] == (
            "this call came without a message"
        )


def test_a_call_that_there_is_not_is_no_secret(edge, ports, time, tmp_path):
    with dial(ports.address, enrolled(ports, time, tmp_path / "other", "other")) as channel:
        call = channel.unary_unary("/roundel.v1.Enrolment/Enrol")
        assert refusal(lambda: call(b"", timeout=TIMEOUT_S))[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def tight(tmp_path, time):
    """Ports that let a peer have one call open, and 1000 bytes at once."""
    limits = Limits(calls=Rate(per_s=1e3, burst=2.0), payload=Rate(per_s=1e6, burst=1e3), open=1)
    with secured(tmp_path / "authority", time, limits=limits) as opened:
        yield opened


def test_too_many_open_calls_are_refused_and_other_nodes_not_hindered(tight, time, tmp_path):
    edge = enrolled(tight, time, tmp_path / "edge")
    other = enrolled(tight, time, tmp_path / "other", "other")
    with federation(tight.address, edge) as mine, federation(tight.address, other) as another:
        waiting = mine.Poll.future(pb.PollRequest(), timeout=TIMEOUT_S)
        assert tight.federation.polled.wait(TIMEOUT_S)
        code, said = refusal(lambda: mine.Beat(pb.BeatRequest(), timeout=TIMEOUT_S))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said == (
            "node 'edge' has 1 calls open, which is all that it may; wait for some to end"
        )
        another.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
        tight.federation.work.set()
        assert waiting.result().number == 7
        mine.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
    assert tight.federation.callers == ["other", "edge"]


def test_whoever_sends_too_fast_is_slowed_down_and_nothing_is_lost(tight, time, tmp_path):
    with federation(tight.address, enrolled(tight, time, tmp_path / "edge")) as edge:
        assert edge.Upload(iter([PART] * 5), timeout=TIMEOUT_S).accepted
        for _ in range(5):
            edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
    assert (tight.federation.parts, len(tight.federation.callers)) == (5, 5)


def test_the_guard_is_what_a_coordinator_puts_before_its_calls(ports):
    (guard,) = ports.tls.interceptors
    assert isinstance(guard, Guard)


def test_calls_that_leave_traces_have_a_rate_of_their_own(tmp_path, time):
    limits = replace(NODE, entries=Rate(per_s=0.1, burst=3.0))
    with secured(tmp_path / "authority", time, limits=limits) as ports:
        identity = enrolled(ports, time, tmp_path / "edge")
        other = enrolled(ports, time, tmp_path / "other", "other")
        with federation(ports.address, identity) as edge, federation(ports.address, other) as fresh:
            for _ in range(3):
                edge.Join(pb.JoinRequest(node="edge"), timeout=TIMEOUT_S)
            for call in (
                lambda: edge.Join(pb.JoinRequest(node="edge"), timeout=TIMEOUT_S),
                lambda: edge.Renew(pb.RenewRequest(), timeout=TIMEOUT_S),
            ):
                assert refusal(call) == (
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "node 'edge' has joined or renewed its certificate too often; wait a minute",
                )
            edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
            fresh.Join(pb.JoinRequest(node="other"), timeout=TIMEOUT_S)
            time.seconds += 11.0
            edge.Join(pb.JoinRequest(node="edge"), timeout=TIMEOUT_S)
    assert audited(tmp_path).count('"event": "refused"') == 1


def test_refused_calls_are_slowed_down_and_cost_nobody_else(ports, time, tmp_path, monkeypatch):
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    stolen = enrolled(ports, time, tmp_path / "stolen")
    ports.authority.revoke("edge", "stolen", time.now)
    again = enrolled(ports, time, tmp_path / "again")
    monkeypatch.setattr(grpc_metering, "_pause", pause)
    with federation(ports.address, stolen) as thief, federation(ports.address, again) as edge:
        for _ in range(103):
            assert refusal(lambda: thief.Beat(pb.BeatRequest(), timeout=TIMEOUT_S))[0] is DENIED
        assert [round(seconds, 6) for seconds in paused if seconds] == [0.1, 0.2, 0.3]
        paused.clear()
        edge.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
        assert not any(paused)
