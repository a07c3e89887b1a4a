"""The coordinator's end of the wire: an asyncio gRPC server in a thread of its own.

The thread that runs rounds talks to it through `Nodes` (work going out) and a queue of `Arrival`
(answers coming in), each with a future for the verdict. Heavy work, digests and aggregation, stays
off the event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any, Self, TypeAlias, TypeVar

import grpc
from grpc import aio

from roundel.core.errors import ConfigError, ProtocolError
from roundel.core.messages import ClientFailure, ClientUpdate, Evaluation
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    PROTOCOL,
    evaluation_from_wire,
    failure_from_wire,
    update_from_wire,
)
from roundel.core.wire.payload import MESSAGE_LIMITS, Packed, Receiver, unpack
from roundel.server.nodes import Nodes

POLL_S = 20.0
HEARTBEAT_S = 3.0
FAREWELL_S = 2.0

_OVER = "the run is over"

Answer = ClientUpdate | ClientFailure | Evaluation
ReplyT = TypeVar("ReplyT")
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

OPTIONS = [*MESSAGE_LIMITS, ("grpc.so_reuseport", 0)]


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


class _Servicer(pb_grpc.FederationServicer):
    def __init__(self, coordinator: Coordinator, terms: Terms) -> None:
        self._coordinator = coordinator
        self._nodes = coordinator.nodes
        self._payloads = coordinator.payloads
        self._terms = terms

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        async def answer() -> pb.JoinReply:
            if request.protocol != PROTOCOL:
                raise ProtocolError(
                    f"node {request.node!r} speaks protocol {request.protocol} and the "
                    f"coordinator {PROTOCOL}; upgrade the older one"
                )
            session = self._nodes.join(request.node)
            terms = self._terms
            return pb.JoinReply(run=terms.run, session=session, experiment=terms.experiment)

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
            work = self._nodes.take(request.session, wake)
            if work is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), POLL_S)
                work = self._nodes.take(request.session, wake)
            return work or pb.Work()

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
            packed = self._payloads.get(request.sha256)
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
            self._check_owner(header.session, header.ticket.client_id)
            payload = header.payload
            receiver = Receiver(payload.size, payload.sha256, self._terms.update_limit)
            async for part in parts:
                if part.WhichOneof("part") != "data":
                    raise ProtocolError("an upload has one header only")
                receiver.take(part.data)
            data = await asyncio.to_thread(receiver.finish)
            return await self._judge(update_from_wire(header, unpack(data)))

        return await _answered(context, answer())

    async def Fail(self, request: pb.FailureReport, context: Context) -> pb.Verdict:
        async def answer() -> pb.Verdict:
            self._check_owner(request.session, request.ticket.client_id)
            return await self._judge(failure_from_wire(request))

        return await _answered(context, answer())

    async def Report(self, request: pb.EvaluationReport, context: Context) -> pb.Verdict:
        async def answer() -> pb.Verdict:
            self._check_owner(request.session, request.ticket.client_id)
            return await self._judge(evaluation_from_wire(request))

        return await _answered(context, answer())

    def _check_owner(self, session: str, client_id: int) -> None:
        """Refuse a node that speaks for a client it does not host."""
        self._nodes.seen(session)
        if not self._nodes.hosts(session, client_id):
            raise ProtocolError(f"this node does not host client {client_id}")

    async def _judge(self, answer: Answer) -> pb.Verdict:
        """Hand an answer to the thread that runs rounds, and wait for what it says."""
        arrival = Arrival(answer)
        self._coordinator.submit(arrival)
        reason = await asyncio.wrap_future(arrival.verdict)
        return pb.Verdict(accepted=reason is None, reason=reason or "")


async def _answered(context: Context, work: Awaitable[ReplyT]) -> ReplyT:
    """Return the reply, or end the call with the sentence of a `ProtocolError`."""
    try:
        return await work
    except ProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise
