"""Sends cases, many at a time, and says how each ended."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from roundel.core.certificates import AUTHORITY
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.channel import COORDINATOR
from tests.hostile.cases import Case, Noise, Peer

WINDOW = 20
"""Calls that are open at a time."""

TIMEOUT_S, POLL_S, GRACE_S = 10.0, 0.3, 0.5
_OWN = "Internal error from Core"  # what gRPC says when this end stumbles
_WITH_VERDICT = ("Upload", "Fail", "Report")
_STREAMS = ("Upload", "Download")

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a call ended.

    Attributes:
        code: Its status; None if it never left.
        details: What was said with it.
        accepted: Whether a verdict accepted something.
        seconds: How long it took.
        patient: Whether it had been asked to wait, so that its time says nothing.
    """

    code: grpc.StatusCode | None
    details: str
    accepted: bool
    seconds: float
    patient: bool


class Sender:
    """Channels of peers who mean no good."""

    def __init__(
        self, address: str, enrolment: str = "", credentials: Mapping[Peer, Any] | None = None
    ) -> None:
        """Remember how to call.

        Args:
            address: The coordinator's.
            enrolment: Where nodes enrol, if they do.
            credentials: Of each peer; without any, nothing is encrypted.
        """
        self._address = address
        self._enrolment = enrolment
        self._credentials = credentials
        self._channels: dict[Peer, aio.Channel] = {}

    async def send(self, cases: Sequence[Case]) -> list[Ended]:
        """Send cases, `WINDOW` at a time; calls that are left open end with the last of them."""
        window, over = asyncio.Semaphore(WINDOW), asyncio.Event()
        calls = [
            asyncio.create_task(
                self._stalling(case, over) if case.stalls else self._in(window, case)
            )
            for case in cases
        ]
        brief = [call for call, case in zip(calls, cases, strict=True) if not case.stalls]
        await asyncio.gather(*brief)
        over.set()
        return await asyncio.gather(*calls)

    async def close(self) -> None:
        """Hang up."""
        for channel in self._channels.values():
            await channel.close()

    async def _in(self, window: asyncio.Semaphore, case: Case) -> Ended:
        async with window:
            return await self._call(case, _given(case.messages))

    async def _stalling(self, case: Case, over: asyncio.Event) -> Ended:
        async def messages() -> AsyncIterator[bytes]:
            for message in case.messages:
                yield message
            await over.wait()

        call = asyncio.create_task(self._call(case, messages()))
        await asyncio.wait(
            [call, asyncio.create_task(over.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        await asyncio.wait([call], timeout=GRACE_S)
        call.cancel()
        return await call

    async def _call(self, case: Case, messages: AsyncIterator[bytes]) -> Ended:
        method = case.path.rpartition("/")[2]
        patient = method == "Poll" or case.stalls
        how: dict[str, Any] = {
            "timeout": POLL_S if method == "Poll" and not case.stalls else TIMEOUT_S,
            "metadata": case.metadata or None,
            "compression": grpc.Compression.Gzip if case.gzip else None,
        }
        began, replies = time.monotonic(), list[bytes]()
        code: grpc.StatusCode | None
        code, details = grpc.StatusCode.OK, ""
        try:
            channel = self._channel(case.peer)
            if len(case.messages) == 1 and method not in _STREAMS and not case.stalls:
                replies.append(await channel.unary_unary(case.path)(case.messages[0], **how))
            else:
                async for reply in channel.stream_stream(case.path)(messages, **how):
                    replies.append(reply)
        except aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if details == _OWN:  # the coordinator had answered before all was sent
                code = None
        except (asyncio.CancelledError, ValueError, TypeError, aio.UsageError) as error:
            code, details = None, repr(error)  # this end refuses to send it
        seconds = time.monotonic() - began
        accepted = method in _WITH_VERDICT and any(map(_accepts, replies))
        return Ended(
            code=code, details=details, accepted=accepted, seconds=seconds, patient=patient
        )

    def _channel(self, peer: Peer) -> aio.Channel:
        if peer not in self._channels:
            self._channels[peer] = self._dialled(peer)
        return self._channels[peer]

    def _dialled(self, peer: Peer) -> aio.Channel:
        if self._credentials is None:
            return aio.insecure_channel(self._address, options=_OPTIONS)
        enrols = peer is Peer.STRANGER
        name = AUTHORITY if enrols else COORDINATOR
        options = [*_OPTIONS, ("grpc.ssl_target_name_override", name)]
        address = self._enrolment if enrols else self._address
        return aio.secure_channel(address, self._credentials[peer], options=options)


def send_noise(address: str, noise: Noise) -> None:
    """Send bytes over a bare socket, and hang up."""
    with suppress(OSError), socket.create_connection(_place(address), timeout=1.0) as connection:
        connection.sendall(noise.data)
        connection.settimeout(0.05)
        connection.recv(1 << 16)


@contextmanager
def left_open(address: str, count: int) -> Iterator[None]:
    """Keep connections that say half a greeting, or nothing, all through the block."""
    with ExitStack() as stack:
        for number in range(count):
            connection = stack.enter_context(socket.create_connection(_place(address)))
            connection.sendall(b"\x16\x03\x01\x02"[: number % 5])
        yield


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def _given(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _accepts(reply: bytes) -> bool:
    with suppress(ValueError):
        return pb.Verdict.FromString(reply).accepted
    return False
