"""Whether a coordinator answers, and what it says of itself."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc

from roundel.client.checkup import (
    TIMEOUT_S,
    Finding,
    clock_finding,
    failed,
    protocol_finding,
)
from roundel.core.wire.channel import Identity, dial
from roundel.core.wire.greeting import greeting_from_metadata


def ask_health(
    address: str, identity: Identity | None, clock: Callable[[], float]
) -> list[Finding]:
    """Ask a coordinator how it is, which protocol it speaks and what time it has.

    Args:
        address: ``host:port``.
        identity: Of this node; None without encryption.
        clock: Tells the time, in seconds since 1970.
    """
    with dial(address, identity) as channel:
        stub: Any = health_pb_grpc.HealthStub(channel)
        request = health_pb.HealthCheckRequest()
        try:
            stub.Check(request, timeout=TIMEOUT_S)  # connects, so that the next is quick
            began_s = clock()
            reply, call = stub.Check.with_call(request, timeout=TIMEOUT_S)
            took_s = max(0.0, clock() - began_s)
        except grpc.RpcError as error:
            return [_refused(error, insecure=identity is None)]
        greeting = greeting_from_metadata(call.trailing_metadata() or ())
    ahead_s = None if greeting.time_s is None else began_s + took_s / 2 - greeting.time_s
    return [
        _health(serves=reply.status == health_pb.HealthCheckResponse.SERVING),
        protocol_finding(greeting.protocol),
        clock_finding(ahead_s, unsure_s=took_s / 2),
    ]


def _health(*, serves: bool) -> Finding:
    if serves:
        return Finding(what="health", said="the coordinator serves")
    return failed("health", "the coordinator does not serve", "look at its own output")


def _refused(error: grpc.RpcError, *, insecure: bool) -> Finding:
    """Say why a coordinator does not answer."""
    code, details = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return failed("health", "what listens there is no coordinator", "check the port")
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            why, _, remedy = details.partition("; ")
            return failed("health", f"the coordinator refuses: {why}", remedy or "ask its operator")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return failed(
                "health",
                "the coordinator does not answer",
                "leave --insecure out if it encrypts, and look at its own output"
                if insecure
                else "its output says whether it refuses this node's certificate",
            )
        case _:
            return failed("health", f"{code.name.lower()}: {details}", "look at its own output")
