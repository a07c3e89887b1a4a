"""Answers to health checks, which also say what time it is here and what protocol is spoken."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from grpc import aio
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1._async import HealthServicer

from roundel.core.wire.greeting import greeting_to_metadata
from roundel.core.wire.versions import OURS

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class Health:
    """Answers as gRPC's own servicer does, and says more along with it."""

    def __init__(self, plain: HealthServicer, clock: Callable[[], float]) -> None:
        self._plain = plain
        self._clock = clock

    async def Check(self, request: health_pb.HealthCheckRequest, context: Context) -> object:
        """Answer once."""
        context.set_trailing_metadata(greeting_to_metadata(OURS, self._clock()))
        return await self._plain.Check(request, context)

    async def Watch(self, request: health_pb.HealthCheckRequest, context: Context) -> None:
        """Answer whenever something changes."""
        await self._plain.Watch(request, context)


async def health_servicer(services: Sequence[str], clock: Callable[[], float]) -> Health:
    """Return what answers to health checks: the server serves, and so do these services.

    Args:
        services: Their full names.
        clock: The time, in seconds since 1970.
    """
    plain = HealthServicer()
    for service in ("", *services):
        await plain.set(service, health_pb.HealthCheckResponse.SERVING)
    return Health(plain, clock)
