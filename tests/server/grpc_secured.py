"""A coordinator's ports with certificates, and behind them a federation that only counts."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc
from grpc_health.v1._async import HealthServicer

from roundel.client.grpc_enrol import identity_of
from roundel.core.errors import ConfigError
from roundel.core.status import Snapshot
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import UNCOMPRESSED, Identity, dial
from roundel.core.wire.frames import chunk
from roundel.server.authority import Authority
from roundel.server.callers import check_speaks_for, current
from roundel.server.clocks import Clocks
from roundel.server.grpc_tls import Tls

TIMEOUT_S = 10.0


@dataclass
class Time:
    """A clock that a test turns; certificates are checked by gRPC against the real one, too."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    seconds: float = 0.0

    def clocks(self) -> Clocks:
        return Clocks(utc=lambda: self.now, seconds=lambda: self.seconds)

    def pass_by(self, **span: float) -> None:
        self.now += timedelta(**span)


class Federation(pb_grpc.FederationServicer):
    """Counts what comes through the guard."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self.parts = 0
        self.callers: list[str] = []
        self.polled = threading.Event()
        self.work = threading.Event()

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:
        check_speaks_for(request.node)
        return pb.JoinReply(session="s")

    async def Beat(self, request: pb.BeatRequest, context: Any) -> pb.BeatReply:
        caller = current()
        self.callers.append("" if caller is None else caller.name)
        return pb.BeatReply()

    async def Poll(self, request: pb.PollRequest, context: Any) -> pb.Work:
        self.polled.set()
        await asyncio.to_thread(self.work.wait, TIMEOUT_S)
        return pb.Work(number=7)

    async def Upload(self, request_iterator: AsyncIterator[pb.UploadPart], context: Any) -> Any:
        async for _part in request_iterator:
            self.parts += 1
        return pb.Verdict(accepted=True)

    async def Download(self, request: pb.DownloadRequest, context: Any) -> AsyncIterator[bytes]:
        for number in range(request.offset):
            yield chunk([memoryview(bytes([number % 256]))])

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.Certificate:
        certificate, authority = self._tls.renew(current(), request.request)
        return pb.Certificate(certificate=certificate, authority=authority)


@dataclass
class Operated:
    """The part of a coordinator that operators see."""

    nodes: tuple[str, ...] = ("edge",)
    sent_away: list[tuple[str, str]] = field(default_factory=list)
    expelled: list[tuple[str, str]] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        return Snapshot(run="r", rounds=3, done=1, population=4, hosted=2)

    def send_away(self, node: str, reason: str) -> bool:
        self.sent_away.append((node, reason))
        return node in self.nodes

    def expel(self, node: str, why: str) -> bool:
        self.expelled.append((node, why))
        return node in self.nodes


class Secured:
    """The ports, open, in a thread of their own.

    Attributes:
        address: Of the federation.
        authority: In the directory that was named.
        federation: What calls reach.
        operated: What operators reach.
        tls: What is tested.
    """

    def __init__(self, directory: Path, time: Time, **how: Any) -> None:
        self.authority = Authority(directory, time.now)
        self.tls = Tls(self.authority, clocks=time.clocks(), **how)
        self.federation, self.operated = Federation(self.tls), Operated()
        self.address = ""
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.result(TIMEOUT_S)

    def stop(self) -> None:
        self.federation.work.set()
        with suppress(RuntimeError):  # where it could not start, its loop may be closed
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self.authority.close()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = aio.server(interceptors=self.tls.interceptors, options=UNCOMPRESSED)
        pb_grpc.add_FederationServicer_to_server(self.federation, server)
        health_pb_grpc.add_HealthServicer_to_server(HealthServicer(), server)
        self.tls.add_services(server, self.operated)
        port = self.tls.add_port(server, "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await server.start()
        try:
            await self.tls.start()
            self._started.set_result(None)
            await self._stop.wait()
        except ConfigError as error:
            self._started.set_exception(error)
        finally:
            await self.tls.stop()
            await server.stop(0.0)


@contextmanager
def secured(directory: Path, time: Time, **how: Any) -> Iterator[Secured]:
    """Yield open ports."""
    ports = Secured(directory, time, **how)
    try:
        ports.start()
        yield ports
    finally:
        ports.stop()


def token(ports: Secured, time: Time, *, uses: int = 1, hours: float = 1.0) -> str:
    """Return a join token."""
    made = ports.authority.issue_token(
        port=ports.tls.enrolment_port, life=timedelta(hours=hours), uses=uses, now=time.now
    )
    return made.to_text()


def enrolled(ports: Secured, time: Time, state: Path, name: str = "edge") -> Identity:
    """Let a node enrol; return what it proves its name with."""
    return identity_of(ports.address, state, name, token(ports, time), lambda: time.now)


@contextmanager
def federation(address: str, identity: Identity | None) -> Iterator[Any]:
    """Yield the calls of the federation."""
    with dial(address, identity) as channel:
        yield pb_grpc.FederationStub(channel)
