"""Bytes that are no message are refused in a sentence, whatever call they come with."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from roundel.core.wire import roundel_pb2 as pb
from roundel.server import grpc_coordinator
from roundel.server.grpc_coordinator import Coordinator
from tests.server.fake_node import TIMEOUT_S, refusal
from tests.server.test_grpc_coordinator import LOOPBACK, TERMS
from tests.server.toys import FakeClock

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NO_MESSAGE = "this is no message of this call"
CUT_OFF = b"\x0a\x10edge"


@pytest.fixture
def channel(monkeypatch) -> Iterator[grpc.Channel]:
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    with (
        Coordinator(TERMS, LOOPBACK, FakeClock()) as running,
        grpc.insecure_channel(running.address) as dialled,
    ):
        yield dialled


@pytest.mark.parametrize("method", ["Join", "Host", "Poll", "Beat", "Fail", "Report", "Progress"])
def test_bytes_that_are_no_message_are_refused(channel, method):
    call: Any = channel.unary_unary(f"/roundel.v1.Federation/{method}")
    assert refusal(lambda: call(CUT_OFF, timeout=TIMEOUT_S)) == (INVALID, NO_MESSAGE)


def test_parts_of_an_upload_that_are_no_messages_are_refused(channel):
    call: Any = channel.stream_unary("/roundel.v1.Federation/Upload")
    assert refusal(lambda: call(iter([CUT_OFF]), timeout=TIMEOUT_S)) == (INVALID, NO_MESSAGE)


def test_a_question_for_a_stream_that_is_no_message_is_refused(channel):
    call: Any = channel.unary_stream("/roundel.v1.Federation/Download")
    assert refusal(lambda: list(call(CUT_OFF, timeout=TIMEOUT_S))) == (INVALID, NO_MESSAGE)


def test_a_call_without_a_message_is_refused(channel):
    call: Any = channel.stream_unary("/roundel.v1.Federation/Beat")
    assert refusal(lambda: call(iter([]), timeout=TIMEOUT_S)) == (
        INVALID,
        "this call came without a message",
    )


def test_messages_go_through(channel):
    call: Any = channel.unary_unary(
        "/roundel.v1.Federation/Join",
        pb.JoinRequest.SerializeToString,
        pb.JoinReply.FromString,
    )
    assert call(pb.JoinRequest(protocol=1, node="edge"), timeout=TIMEOUT_S).run == TERMS.run
