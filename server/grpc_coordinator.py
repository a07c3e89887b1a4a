"""The coordinator's end of the wire: an asyncio gRPC server in a thread of its own.

The thread that runs rounds talks to it through `Nodes` (work going out) and a queue of `Arrival`
(answers coming in), each with a future for the verdict. Heavy work, digests and aggregation, stays
off the event loop.
"""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any, Self, TypeAlias, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc
from grpc_health.v1._async import HealthServicer

from roundel.core.errors import ConfigError, ProtocolError
from roundel.core.messages import ClientFailure, ClientUpdate, Evaluation
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    evaluation_from_wire,
    failure_from_wire,
    ticket_from_wire,
    update_from_wire,
)
from roundel.core.wire.payload import MESSAGE_LIMITS, Packed, Receiver, unpack
from roundel.core.wire.versions import OURS, Version, mismatch
from roundel.server.nodes import Node, Nodes, Unfinished

POLL_S = 20.0
HEARTBEAT_S = 3.0
FAREWELL_S = 2.0

_OVER = "the run is over"
_REMEMBERED = 64
"""Verdicts on answers of a node that are kept, and one for each of its clients."""

_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name

Answer = ClientUpdate | ClientFailure | Evaluation
ReplyT = TypeVar("ReplyT")
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

OPTIONS = [
    *MESSAGE_LIMITS,
    ("grpc.so_reuseport", 0),
    # Nodes ask whether the connection still stands, also while a call waits.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
]


def _verdict() -> "Future[str | None]":
    """Return a future that a node which hangs up cannot cancel before somebody sets it."""
    verdict: Future[str | None] = Future()
    verdict.set_running_or_notify_cancel()
    return verdict


@dataclass(frozen=True)
class Arrival:
    """An answer from a node, and where to put what became of it.

    Attributes:
        answer: What came.
        verdict: None for accepted, or the reason why not.
    """

    answer: Answer
    verdict: "Future[str | None]" = field(default_factory=_verdict)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the coordinator tells nodes and holds them to.

    Attributes:
        run: The run's identity.
        experiment: The resolved experiment, as JSON.
        population: How many clients there are.
        fingerprint: Of the model's layout.
        update_limit: Largest payload of an update, in bytes.
    """

    run: str
    experiment: str
    population: int
    fingerprint: str
    update_limit: int


class Coordinator:
    """A running gRPC server.

    Attributes:
        nodes: Who has joined, and what waits for them.
        arrivals: What they have answered.
        payloads: Broadcasts that can be downloaded, by digest.
        address: Where it listens, as ``host:port``.
        closed: Why no further node can host clients; empty while nodes are welcome.
    """

    def __init__(self, terms: Terms, listen: str, clock: Callable[[], float]) -> None:
        self.nodes: Nodes[pb.Work] = Nodes(clock)
        self.arrivals: Queue[Arrival] = Queue()
        self.payloads: dict[bytes, Packed] = {}
        self.address = ""
        self.closed = ""
        self._terms = terms
        self._listen = listen
        self._over = False
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="coordinator", daemon=True)

    def __enter__(self) -> Self:
        """Start to listen.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_error: object) -> None:
        """Dismiss the nodes, and stop."""
        self.dismiss()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def dismiss(self) -> None:
        """Tell all nodes that the run is over, and give them a moment to hear it."""
        if not self._over:
            self._over = True
            self._refuse_arrivals()
            self.nodes.send_to_all(pb.Work(over=pb.RunOver(reason=_OVER)))
            self.nodes.wait_until_taken(FAREWELL_S)

    def submit(self, arrival: Arrival) -> None:
        """Take an answer in for the thread that runs rounds."""
        self.arrivals.put(arrival)
        if self._over:
            self._refuse_arrivals()

    def _refuse_arrivals(self) -> None:
        with suppress(Empty):
            while True:
                self.arrivals.get_nowait().verdict.set_result(_OVER)

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = aio.server(options=OPTIONS)
        pb_grpc.add_FederationServicer_to_server(_Servicer(self, self._terms), server)
        health_pb_grpc.add_HealthServicer_to_server(await self._health(), server)
        try:
            port = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self._listen}: choose a free address with --listen"
            ) from error
        await server.start()
        self.address = f"{self._listen.rpartition(':')[0]}:{port}"
        self._started.set_result(None)
        await self._stop.wait()
        await server.stop(grace=2.0)

    async def _health(self) -> HealthServicer:
        """Return what answers to health checks, of the server and of the federation."""
        servicer = HealthServicer()
        for service in ("", _SERVICE):
            await servicer.set(service, health_pb.HealthCheckResponse.SERVING)
        return servicer


class _Servicer(pb_grpc.FederationServicer):
    def __init__(self, coordinator: Coordinator, terms: Terms) -> None:
        self._coordinator = coordinator
        self._nodes = coordinator.nodes
        self._payloads = coordinator.payloads
        self._terms = terms

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        async def answer() -> pb.JoinReply:
            version = Version(request.protocol, request.minor)
            if problem := mismatch(request.node, version, OURS):
                raise ProtocolError(problem)
            session = self._nodes.join(request.node)
            terms = self._terms
            return pb.JoinReply(
                run=terms.run, session=session, experiment=terms.experiment, minor=OURS.minor
            )

        return await _answered(context, answer())

    async def Host(self, request: pb.HostRequest, context: Context) -> pb.HostReply:
        async def answer() -> pb.HostReply:
            name, terms = self._nodes.seen(request.session).name, self._terms
            if self._coordinator.closed:
                raise ProtocolError(f"node {name!r} comes too late: {self._coordinator.closed}")
            if request.fingerprint != terms.fingerprint:
                raise ProtocolError(
                    f"node {name!r} built a model of another layout than the coordinator's, or "
                    "divided the examples in another way; install the same version of the task, "
                    "of its data and of numpy on both"
                )
            if request.population != terms.population or any(
                not 0 <= client < terms.population for client in request.client_ids
            ):
                raise ProtocolError(
                    f"node {name!r} hosts clients of a population of {request.population}, and "
                    f"the run has {terms.population}"
                )
            self._nodes.host(request.session, request.client_ids)
            return pb.HostReply(heartbeat_s=HEARTBEAT_S)

        return await _answered(context, answer())

    async def Poll(self, request: pb.PollRequest, context: Context) -> pb.Work:
        async def answer() -> pb.Work:
            loop, arrived = asyncio.get_running_loop(), asyncio.Event()

            def wake() -> None:
                loop.call_soon_threadsafe(arrived.set)

            self._nodes.seen(request.session)
            given = self._nodes.take(request.session, request.taken, wake)
            if given is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), POLL_S)
                given = self._nodes.take(request.session, request.taken, wake)
            reply = pb.Work()
            if given is not None:
                reply.number, work = given
                reply.MergeFrom(work)
            return reply

        return await _answered(context, answer())

    async def Beat(self, request: pb.BeatRequest, context: Context) -> pb.BeatReply:
        async def answer() -> pb.BeatReply:
            self._nodes.seen(request.session)
            return pb.BeatReply()

        return await _answered(context, answer())

    async def Download(
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncIterator[pb.Chunk]:
        async def find() -> Packed:
            self._nodes.seen(request.session)
            packed = self._payloads.get(request.digest)
            if packed is None:  # not the node's fault: a round can end before it comes to its work
                await context.abort(
                    grpc.StatusCode.NOT_FOUND, "this payload is not offered, or no longer"
                )
            return packed

        packed = await _answered(context, find())
        for chunk in packed.chunks(request.offset):
            yield pb.Chunk(data=chunk)

    async def Upload(
        self, request_iterator: AsyncIterator[pb.UploadPart], context: Context
    ) -> pb.Verdict:
        async def answer() -> pb.Verdict:
            parts = aiter(request_iterator)
            first = await anext(parts, pb.UploadPart())
            if first.WhichOneof("part") != "header":
                raise ProtocolError("an upload must begin with its header")
            header = first.header
            node = self._owner(header.session, header.ticket.client_id)
            whole = pb.UpdateHeader()
            whole.CopyFrom(header)
            whole.offset = 0  # wherever it begins, it is the same upload
            key = _key(whole)
            if key in node.verdicts:
                return await _verdict_of(node.verdicts[key])
            unfinished = self._unfinished(node, header)
            async for part in parts:
                if part.WhichOneof("part") != "data":
                    raise ProtocolError("an upload has one header only")
                if node.unfinished is not unfinished:
                    raise ProtocolError("this upload goes on in another call")
                unfinished.receiver.take(part.data)
            if unfinished.receiver.complete:
                node.unfinished = None
            data = await asyncio.to_thread(unfinished.receiver.finish)
            return await self._judge(node, key, update_from_wire(header, unpack(data)))

        return await _answered(context, answer())

    async def Fail(self, request: pb.FailureReport, context: Context) -> pb.Verdict:
        async def answer() -> pb.Verdict:
            node = self._owner(request.session, request.ticket.client_id)
            return await self._judge(node, _key(request), failure_from_wire(request))

        return await _answered(context, answer())

    async def Report(self, request: pb.EvaluationReport, context: Context) -> pb.Verdict:
        async def answer() -> pb.Verdict:
            node = self._owner(request.session, request.ticket.client_id)
            return await self._judge(node, _key(request), evaluation_from_wire(request))

        return await _answered(context, answer())

    async def Progress(self, request: pb.ProgressRequest, context: Context) -> pb.ProgressReply:
        async def answer() -> pb.ProgressReply:
            node = self._owner(request.session, request.ticket.client_id)
            offset, found = 0, node.unfinished
            if found is not None and _is_of(found, request.ticket, request.digest):
                offset = found.receiver.filled
            return pb.ProgressReply(offset=offset)

        return await _answered(context, answer())

    def _owner(self, session: str, client_id: int) -> Node[pb.Work]:
        """Return the node that calls; refuse one that speaks for a client it does not host."""
        node = self._nodes.seen(session)
        if not self._nodes.hosts(session, client_id):
            raise ProtocolError(f"this node does not host client {client_id}")
        return node

    def _unfinished(self, node: Node[pb.Work], header: pb.UpdateHeader) -> Unfinished:
        """Return what takes the parts of an upload in, which may go on where it broke off.

        A call that still takes parts of it in stops to.
        """
        payload, before = header.payload, node.unfinished
        if header.offset:
            if before is None or not _is_of(before, header.ticket, payload.digest):
                raise ProtocolError("nothing has arrived of the upload that is to go on")
            receiver = before.receiver
            receiver.rewind(header.offset)
        else:
            receiver = Receiver(payload.size, payload.digest, self._terms.update_limit)
        node.unfinished = Unfinished(ticket_from_wire(header.ticket), payload.digest, receiver)
        return node.unfinished

    async def _judge(self, node: Node[pb.Work], key: bytes, answer: Answer) -> pb.Verdict:
        """Hand an answer to the thread that runs rounds, and wait for what it says.

        What was answered before gets the verdict that it got then.
        """
        if key not in node.verdicts:
            arrival = Arrival(answer)
            node.verdicts[key] = arrival.verdict
            while len(node.verdicts) > _REMEMBERED + len(node.clients):
                del node.verdicts[next(iter(node.verdicts))]
            self._coordinator.submit(arrival)
        return await _verdict_of(node.verdicts[key])


def _key(answer: pb.UpdateHeader | pb.FailureReport | pb.EvaluationReport) -> bytes:
    """Return what is the same if an answer is sent again."""
    return hashlib.sha256(answer.SerializeToString(deterministic=True)).digest()


def _is_of(unfinished: Unfinished, ticket: pb.Ticket, digest: bytes) -> bool:
    """Tell whether an upload is of this payload of this ticket."""
    return (unfinished.ticket, unfinished.digest) == (ticket_from_wire(ticket), digest)


async def _verdict_of(verdict: "Future[str | None]") -> pb.Verdict:
    reason = await asyncio.wrap_future(verdict)
    return pb.Verdict(accepted=reason is None, reason=reason or "")


async def _answered(context: Context, work: Awaitable[ReplyT]) -> ReplyT:
    """Return the reply, or end the call with the sentence of a `ProtocolError`."""
    try:
        return await work
    except ProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise
