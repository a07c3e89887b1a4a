"""Without certificates too, each connection may use so much and no more."""

from collections.abc import Callable, Iterator

import grpc
import pytest

from roundel.core.wire import roundel_pb2 as pb
from roundel.server import grpc_coordinator, grpc_metering
from roundel.server.budgets import Limits, Rate
from roundel.server.clocks import SYSTEM
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.grpc_metering import Meter
from roundel.server.grpc_security import Open
from tests.server.fake_node import TIMEOUT_S, FakeNode, dialling, refusal
from tests.server.grpc_secured import Time
from tests.server.test_grpc_coordinator import LOOPBACK, TERMS
from tests.server.toys import FakeClock, update_of

LIMITS = Limits(calls=Rate(per_s=1e3, burst=1e3), payload=Rate(per_s=1e6, burst=100.0), open=1)


@pytest.fixture
def address(monkeypatch) -> Iterator[str]:
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    with Coordinator(
        TERMS, LOOPBACK, FakeClock(), security=Open(LIMITS, Time().clocks())
    ) as running:
        yield running.address


def test_a_connection_has_so_many_calls_open_and_hinders_no_other(address):
    own = [("grpc.use_local_subchannel_pool", 1)]
    with dialling(address, (0,)) as node, grpc.insecure_channel(address, own) as another:
        other = FakeNode(another)
        waiting = node.stub.Poll.future(pb.PollRequest(session=node.session), timeout=TIMEOUT_S)
        code, said = until_refused(node.beat)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said.startswith("whoever calls from ipv4:127.0.0.1:")
        assert said.endswith(" has 1 calls open, which is all that it may; wait for some to end")
        other.join("other")
        waiting.cancel()


def until_refused(call: Callable[[], None]) -> tuple[grpc.StatusCode, str]:
    """Call until the poll beside it has arrived."""
    while True:
        try:
            call()
        except grpc.RpcError:
            return refusal(call)


def test_bytes_beyond_the_rate_are_slowed_down(address, monkeypatch):
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    with dialling(address, (0,)) as node:
        monkeypatch.setattr(grpc_metering, "_pause", pause)
        parts = node.parts(update_of(0))
        sent = sum(part.ByteSize() for part in parts)
        code, _ = refusal(lambda: node.upload_parts([*parts, *parts[1:]]).result(TIMEOUT_S))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sent > 100
    assert max(paused) > 0


def test_the_peer_that_was_here_longest_ago_is_forgotten():
    meter = Meter(LIMITS, SYSTEM, peers=2)
    first = meter._budget("a")
    assert meter._budget("b") is not meter._budget("c")
    assert meter._budget("a") is not first
    assert len(meter._budgets) == 2


def test_a_peer_with_calls_open_is_not_forgotten():
    meter = Meter(LIMITS, SYSTEM, peers=1)
    first = meter._budget("a")
    first.open = 1
    meter._budget("b")
    assert meter._budget("a") is first
