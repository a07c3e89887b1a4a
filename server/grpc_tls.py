"""Certificates on both ends, between a coordinator and its callers, unless it is told otherwise."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import grpc
from grpc import aio

from roundel.core.audit import Fact
from roundel.core.certificates import Subject
from roundel.core.errors import ConfigError
from roundel.core.private import write_private
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import COORDINATOR
from roundel.server.authority import Authority
from roundel.server.budgets import NODE, Limits
from roundel.server.callers import Caller
from roundel.server.clocks import SYSTEM, Clocks
from roundel.server.grpc_enrolment import listen_for_nodes
from roundel.server.grpc_guard import Guard
from roundel.server.grpc_operator import Operated, Operations

TOKEN_LIFE = timedelta(hours=1)
TOKEN_USES = 100
"""Of the token that is written to a file when a coordinator starts."""

_HIGHEST_PORT = 65535
_FAREWELL_S = 1.0


class Tls:
    """Mutual TLS on the federation's port, and a listener beside it where nodes enrol.

    Attributes:
        interceptors: The guard.
        enrolment_port: Where nodes enrol; 0 before `start`.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        enrolment_port: int | None = None,
        token_file: Path | None = None,
        clocks: Clocks = SYSTEM,
        limits: Limits = NODE,
    ) -> None:
        """Prepare to listen.

        Args:
            authority: Whose certificates count.
            enrolment_port: Where nodes enrol; by default the port after the federation's.
            token_file: Where to write a join token once nodes can enrol.
            clocks: The time.
            limits: What each peer may use.
        """
        self.enrolment_port = 0
        self.interceptors: Sequence[aio.ServerInterceptor] = (
            Guard(authority.objection_to, self._on_refusal, clocks, limits),
        )
        self._authority = authority
        self._wanted_port = enrolment_port
        self._token_file = token_file
        self._clocks = clocks
        self._listen_enrolment = ""
        self._enrolment: aio.Server | None = None

    def add_port(self, server: aio.Server, listen: str) -> int:
        """Let a server listen on ``host:port`` for those whom the authority has certified.

        Raises:
            RuntimeError: The address cannot be listened on.
        """
        own = self._authority.server_identity(COORDINATOR, self._clocks.utc())
        credentials = grpc.ssl_server_credentials(
            [(own.key, own.certificate)],
            root_certificates=own.authority,
            require_client_auth=True,
        )
        port = server.add_secure_port(listen, credentials)
        host, _, asked = listen.rpartition(":")
        following = int(asked) + 1 if int(asked) else 0
        wanted = following if self._wanted_port is None else self._wanted_port
        if wanted > _HIGHEST_PORT:
            raise ConfigError(f"there is no port {wanted} to enrol at; name one with --enrol-port")
        self._listen_enrolment = f"{host}:{wanted}"
        return port

    def add_services(self, server: aio.Server, coordinator: Operated) -> None:
        """Let operators call the federation's port too."""
        operations = Operations(
            coordinator, self._authority, self._clocks, lambda: self.enrolment_port
        )
        pb_grpc.add_OperatorServicer_to_server(operations, server)

    async def start(self) -> None:
        """Let nodes enrol.

        Raises:
            ConfigError: The port cannot be listened on.
            RunDirectoryError: The token cannot be written.
        """
        self._enrolment, self.enrolment_port = await listen_for_nodes(
            self._listen_enrolment, self._authority, self._clocks
        )
        if self._token_file is not None:
            token = self._authority.issue_token(
                port=self.enrolment_port,
                life=TOKEN_LIFE,
                uses=TOKEN_USES,
                now=self._clocks.utc(),
            )
            write_private(self._token_file, f"{token.to_text()}\n".encode())

    async def stop(self) -> None:
        """Let nobody enrol any more."""
        if self._enrolment is not None:
            await self._enrolment.stop(_FAREWELL_S)

    def renew(self, caller: Caller | None, request: bytes) -> tuple[bytes, bytes]:
        """Return a new certificate for a node and the authority's own, both in PEM.

        Raises:
            ProtocolError: It cannot be renewed.
        """
        signed = self._authority.renew(caller, request, self._clocks.utc())
        return signed, self._authority.certificate

    def record(self, event: str, **facts: Fact) -> None:
        """Add to the audit trail."""
        self._authority.record(event, self._clocks.utc(), **facts)

    def _on_refusal(self, subject: Subject, why: str) -> None:
        serial = str(subject.serial)
        self.record("refused", caller=subject.name, role=subject.role, serial=serial, why=why)
