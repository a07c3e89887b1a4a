"""Whether a coordinator answers, and what it says of itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc

from roundel.client.checkup import Finding
from roundel.client.grpc_checkup import ask_health
from roundel.core.certificates import (
    Signer,
    key_to_pem,
    member_certificate,
    new_authority,
    new_key,
    server_certificate,
    to_pem,
)
from roundel.core.wire.channel import COORDINATOR, Identity
from roundel.core.wire.greeting import greeting_to_metadata
from roundel.core.wire.versions import OURS

NOW = datetime.now(UTC)
NOON_S = 1_700_000_000.0
GREETING = greeting_to_metadata(OURS, NOON_S)
SERVING = health_pb.HealthCheckResponse.SERVING


class Health(health_pb_grpc.HealthServicer):
    """Answers one thing."""

    def __init__(self, status: int, metadata: Any, refusal: grpc.StatusCode | None) -> None:
        self.status, self.metadata, self.refusal = status, metadata, refusal

    def Check(self, request, context):  # noqa: N802 - the .proto file names it
        if self.refusal is not None:
            context.abort(self.refusal, "not you")
        context.set_trailing_metadata(self.metadata)
        return health_pb.HealthCheckResponse(status=self.status)


@contextmanager
def serving(
    *,
    status: int = SERVING,
    metadata: Any = GREETING,
    refusal: grpc.StatusCode | None = None,
    credentials: grpc.ServerCredentials | None = None,
    servicer: bool = True,
) -> Iterator[str]:
    """Yield the address of a coordinator that answers health checks."""
    server = grpc.server(ThreadPoolExecutor(2))
    if servicer:
        health_pb_grpc.add_HealthServicer_to_server(Health(status, metadata, refusal), server)
    where = "127.0.0.1:0"
    port = (
        server.add_insecure_port(where)
        if credentials is None
        else server.add_secure_port(where, credentials)
    )
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def told(address: str, identity: Identity | None = None) -> list[tuple[str, str]]:
    return [(finding.what, finding.level) for finding in asked(address, identity)]


def asked(address: str, identity: Identity | None = None) -> list[Finding]:
    return ask_health(address, identity, clock=lambda: NOON_S + 90.0)


def test_health_protocol_and_clock_are_learned_in_one_call():
    with serving() as address:
        health, protocol, clock = asked(address)
    assert health.line() == "ok    health       the coordinator serves"
    assert protocol.said == f"{OURS} here, {OURS} there"
    assert clock.said == "90 s ahead of the coordinator's"


def test_a_coordinator_that_says_nothing_of_itself_is_no_failure():
    with serving(metadata=()) as address:
        assert told(address) == [("health", "ok"), ("protocol", "WARN"), ("clock", "WARN")]


def test_a_coordinator_that_does_not_serve_is_one():
    with serving(status=health_pb.HealthCheckResponse.NOT_SERVING) as address:
        assert told(address)[0] == ("health", "FAIL")


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL])
def test_a_refusal_is_repeated(code):
    with serving(refusal=code) as address:
        (finding,) = asked(address)
    assert finding.level == "FAIL"
    assert finding.said.endswith(": not you")


def test_a_server_without_health_checks_is_no_coordinator():
    with serving(servicer=False) as address:
        (finding,) = asked(address)
    assert finding.said == "what listens there is no coordinator"


def test_certificates_open_the_door_and_without_them_it_stays_closed():
    authority = new_authority(NOW, serial=1)
    key = new_key()
    signed = server_certificate(authority, key.public_key(), name=COORDINATOR, now=NOW, serial=2)
    credentials = grpc.ssl_server_credentials(
        [(key_to_pem(key), to_pem(signed))],
        root_certificates=to_pem(authority.certificate),
        require_client_auth=True,
    )
    with serving(credentials=credentials) as address:
        assert told(address, identity(authority, authority))[0] == ("health", "ok")
        foreign = identity(authority, new_authority(NOW, serial=1))
        (finding,) = asked(address, foreign)
        assert finding.remedy.endswith("whether it refuses this node's certificate")
        (finding,) = asked(address)
        assert finding.remedy.startswith("leave --insecure out if it encrypts")


def identity(trusted: Signer, signer: Signer) -> Identity:
    """A node that trusts one authority and was signed by another."""
    key = new_key()
    signed = member_certificate(
        signer, key.public_key(), role="node", name="edge", now=NOW, serial=3
    )
    return Identity(
        key=key_to_pem(key), certificate=to_pem(signed), authority=to_pem(trusted.certificate)
    )
