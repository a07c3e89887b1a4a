"""Health checks say what time it is and what protocol is spoken."""

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2 as health_pb

from roundel.core.wire.greeting import Greeting, greeting_from_metadata
from roundel.core.wire.versions import OURS
from roundel.server.grpc_health import health_servicer


class FakeContext:
    """Keeps the metadata."""

    metadata: Any = ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.metadata = metadata


def test_whoever_asks_learns_protocol_and_time():
    context: Any = FakeContext()

    async def ask() -> Any:
        servicer = await health_servicer(["mine"], clock=lambda: 12.5)
        return await servicer.Check(health_pb.HealthCheckRequest(service="mine"), context)

    assert asyncio.run(ask()).status == health_pb.HealthCheckResponse.SERVING
    assert greeting_from_metadata(context.metadata) == Greeting(protocol=OURS, time_s=12.5)
