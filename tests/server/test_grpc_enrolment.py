"""Where strangers call: what a token buys, and what wears thin."""

import threading
from typing import Any

import grpc
import pytest

from roundel.core.certificates import from_pem, new_key, signing_request, subject_of
from roundel.core.errors import RunDirectoryError
from roundel.core.tokens import parse_token
from roundel.core.wire import roundel_pb2 as pb
from roundel.server import grpc_enrolment
from roundel.server.grpc_enrolment import place_of
from tests.server.fake_node import refusal
from tests.server.grpc_secured import TIMEOUT_S, Time, secured, token

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ENROL = "/roundel.v1.Enrolment/Enrol"


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ports(tmp_path, time):
    with secured(tmp_path / "authority", time) as opened:
        yield opened


@pytest.fixture
def channel(ports):
    """A stranger's connection to the listener."""
    credentials = grpc.ssl_channel_credentials(root_certificates=ports.authority.certificate)
    options = [("grpc.ssl_target_name_override", "authority.roundel")]
    place = f"127.0.0.1:{ports.tls.enrolment_port}"
    with grpc.secure_channel(place, credentials, options=options) as opened:
        yield opened


def enrol(channel, request: pb.EnrolRequest, **how) -> pb.Certificate:
    call = channel.unary_unary(
        ENROL,
        request_serializer=pb.EnrolRequest.SerializeToString,
        response_deserializer=pb.Certificate.FromString,
    )
    return call(request, timeout=TIMEOUT_S, **how)


def request(text: str, node: str = "edge", **other: Any) -> pb.EnrolRequest:
    made = parse_token(text)
    fields: dict[str, Any] = {"token_id": made.id, "secret": made.secret, "node": node}
    fields |= {"request": signing_request(new_key()), **other}
    return pb.EnrolRequest(**fields)


def test_a_token_buys_a_certificate(ports, channel, time):
    reply = enrol(channel, request(token(ports, time)))
    assert subject_of(from_pem(reply.certificate)).name == "edge"
    assert reply.authority == ports.authority.certificate


def test_a_refusal_is_a_sentence_and_in_the_audit_trail_with_where_it_came_from(
    ports, channel, time, tmp_path
):
    code, said = refusal(lambda: enrol(channel, request(token(ports, time), secret=b"guessed")))
    assert code is INVALID
    assert said == "this join token is not known here; ask the operator for a new one"
    last = (tmp_path / "authority" / "audit.jsonl").read_text().splitlines()[-1]
    assert '"event": "refused", "node": "edge", "peer": "127.0.0.1"' in last


def test_whoever_guesses_too_often_leaves_no_trace_and_does_not_hinder_a_right_token(
    ports, channel, time, tmp_path
):
    right, wrong = request(token(ports, time)), request(token(ports, time), secret=b"guessed")
    trail = tmp_path / "authority" / "audit.jsonl"
    for _ in range(10):
        assert refusal(lambda: enrol(channel, wrong))[0] is INVALID
    before = trail.read_bytes()
    code, said = refusal(lambda: enrol(channel, wrong))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said.startswith("too many tries with wrong tokens; wait a minute")
    assert trail.read_bytes() == before
    assert enrol(channel, right).certificate
    time.seconds += 10.0
    assert refusal(lambda: enrol(channel, wrong))[0] is INVALID


def test_a_name_that_is_taken_is_no_guess(ports, channel, time):
    text = token(ports, time, uses=2)
    enrol(channel, request(text))
    for _ in range(12):
        code, said = refusal(lambda: enrol(channel, request(text)))
        assert (code, said[:34]) == (INVALID, "another node is enrolled as 'edge'")


def test_a_call_whose_message_does_not_come_ends(tmp_path, time, monkeypatch):
    monkeypatch.setattr(grpc_enrolment, "_MESSAGE_S", 0.1)
    silence = threading.Event()

    def nothing():
        silence.wait(TIMEOUT_S)
        yield from ()

    with secured(tmp_path / "other", time) as opened:
        credentials = grpc.ssl_channel_credentials(opened.authority.certificate)
        options = [("grpc.ssl_target_name_override", "authority.roundel")]
        place = f"127.0.0.1:{opened.tls.enrolment_port}"
        with grpc.secure_channel(place, credentials, options=options) as stranger:
            call = stranger.stream_unary(ENROL)
            code, said = refusal(lambda: call(nothing(), timeout=TIMEOUT_S))
            silence.set()
    assert (code, said) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "no message came within 0.1 seconds",
    )


def test_nodes_with_a_right_token_may_come_all_at_once(ports, channel, time):
    text = token(ports, time, uses=20)
    for number in range(20):
        assert enrol(channel, request(text, f"edge{number}")).certificate


def test_a_large_message_is_not_read(channel):
    code, said = refusal(lambda: enrol(channel, pb.EnrolRequest(request=bytes(17 << 10))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in said


def test_a_compressed_message_is_refused_before_it_is_inflated(channel):
    with pytest.raises(grpc.RpcError, match="Compression algorithm 'gzip' is disabled"):
        enrol(channel, pb.EnrolRequest(request=bytes(5000)), compression=grpc.Compression.Gzip)


@pytest.mark.parametrize(
    "method",
    ["/roundel.v1.Federation/Join", "/roundel.v1.Operator/Status", "/grpc.health.v1.Health/Check"],
)
def test_nothing_else_is_there(channel, method):
    call = channel.unary_unary(method)
    assert refusal(lambda: call(b"", timeout=TIMEOUT_S))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_trouble_of_the_coordinator_is_not_told_to_strangers(
    ports, channel, time, monkeypatch, caplog
):
    def full(*_arguments, **_how):
        raise RunDirectoryError("cannot write /home/anna/authority: no space left")

    asked = request(token(ports, time))
    monkeypatch.setattr(ports.authority, "enrol", full)
    code, said = refusal(lambda: enrol(channel, asked))
    assert code is grpc.StatusCode.INTERNAL
    assert said == "the coordinator cannot enrol nodes now; its log says why"
    (record,) = caplog.records
    assert record.getMessage() == (
        "node 'edge' of 127.0.0.1 cannot be enrolled: "
        "cannot write /home/anna/authority: no space left"
    )
    for _ in range(9):
        refusal(lambda: enrol(channel, asked))
    code, _ = refusal(lambda: enrol(channel, asked))
    assert code is grpc.StatusCode.INTERNAL
    assert len(caplog.records) == 10  # a stranger cannot fill the log


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("ipv4:192.0.2.7:50123", "192.0.2.7"),
        ("ipv6:[::1]:50123", "::1"),
        ("ipv6:%5B2001:db8::1%5D:50123", "2001:db8::1"),
        ("unix:/tmp/socket", "unix"),
        ("unix:", "unix"),
    ],
)
def test_a_place_is_an_address_without_its_port(peer, place):
    assert place_of(peer) == place
