"""How a coordinator's ports are opened, and who may call through them."""

from collections.abc import Sequence
from typing import Protocol

from grpc import aio

from roundel.core.audit import Fact
from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.server.budgets import CONNECTION, Limits
from roundel.server.callers import Caller
from roundel.server.clocks import SYSTEM, Clocks
from roundel.server.grpc_metering import Metering
from roundel.server.grpc_operator import Operated, Operations


class Security(Protocol):
    """What stands between a coordinator and its callers.

    Attributes:
        interceptors: Look at each call before it is answered.
    """

    @property
    def interceptors(self) -> Sequence[aio.ServerInterceptor]:
        """Look at each call before it is answered."""
        ...

    def add_port(self, server: aio.Server, listen: str) -> int:
        """Let a server listen on ``host:port``; return the port.

        Raises:
            RuntimeError: The address cannot be listened on.
        """
        ...

    def add_services(self, server: aio.Server, coordinator: Operated) -> None:
        """Add further services to the federation's port."""
        ...

    async def start(self) -> None:
        """Open the ports of its own, if it has any."""
        ...

    async def stop(self) -> None:
        """Close them."""
        ...

    def renew(self, caller: Caller | None, request: bytes) -> tuple[bytes, bytes]:
        """Return a new certificate for a node and the authority's own, both in PEM.

        Raises:
            ProtocolError: It cannot be renewed.
        """
        ...

    def record(self, event: str, **facts: Fact) -> None:
        """Add to the audit trail, if there is one."""
        ...


class Open:
    """No certificates: everybody is who it says it is, and everybody on the way can read along."""

    def __init__(self, limits: Limits = CONNECTION, clocks: Clocks = SYSTEM) -> None:
        """Prepare to listen.

        Args:
            limits: What each connection may use.
            clocks: The time.
        """
        self.interceptors: Sequence[aio.ServerInterceptor] = (Metering(limits, clocks),)

    def add_port(self, server: aio.Server, listen: str) -> int:
        """Let a server listen without encryption."""
        return server.add_insecure_port(listen)

    def add_services(self, server: aio.Server, coordinator: Operated) -> None:
        """Let operators on this machine call the federation's port too."""
        operations = Operations(coordinator, None, SYSTEM, lambda: 0)
        pb_grpc.add_OperatorServicer_to_server(operations, server)

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def renew(self, caller: Caller | None, request: bytes) -> tuple[bytes, bytes]:
        """Refuse: there are no certificates."""
        raise ProtocolError("this coordinator runs with --insecure and has no certificates to give")

    def record(self, event: str, **facts: Fact) -> None:
        """Do nothing."""
