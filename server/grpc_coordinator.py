"""The coordinator's end of the wire: an asyncio gRPC server in a thread of its own.

The thread that runs rounds talks to it through `Nodes` (work going out) and a queue of what comes
in: answers, each with a future for its verdict, nodes that host clients, and trouble. Heavy work,
digests and aggregation, stays off the event loop.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Self

from grpc import aio
from grpc_health.v1 import health_pb2_grpc as health_pb_grpc

from roundel.core.errors import ConfigError, RunFailed
from roundel.core.messages import Ticket
from roundel.core.status import RoundStatus, Snapshot
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import UNCOMPRESSED
from roundel.core.wire.limits import MESSAGE_LIMITS
from roundel.core.wire.payload import Packed
from roundel.server.arrivals import Arrival, Incoming, Terms, is_awaited
from roundel.server.descriptors import connections_at_most
from roundel.server.grpc_federation import Federation
from roundel.server.grpc_health import health_servicer
from roundel.server.grpc_security import Open, Security
from roundel.server.lateness import PULSE_S, Lateness
from roundel.server.nodes import Nodes
from roundel.server.prompt import prompt
from roundel.server.spool import SendAgain
from roundel.server.status import snapshot
from roundel.server.store import Store

FAREWELL_S = 2.0
LEASE_S = 20.0
"""How long a node may be silent, while the coordinator would hear it; then it is away."""

_LOOK_EVERY_S = 0.5
"""How often silent nodes are looked for: all nodes are asked, while no call is answered."""

_OVER = "the run is over"
_GRACE_S = 2.0
_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name

OPTIONS = [
    *MESSAGE_LIMITS,
    *UNCOMPRESSED,
    ("grpc.so_reuseport", 0),
    # Whoever connects and says nothing is cut off before it holds much.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    # How much of each stream may be on its way here: fast enough, and memory for many streams.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    # Nodes ask whether the connection still stands, also while a call waits.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the thread that runs rounds is, for people to see.

    Attributes:
        done: How many rounds are over.
        open_round: Says what it knows of the open round at a time; None if none is open.
        unanswered: How many answers each session owes.
        objection_to: Says why an update with a ticket cannot count; empty if it may.
    """

    done: int = 0
    open_round: Callable[[float], RoundStatus] | None = None
    unanswered: Mapping[str, int] = field(default_factory=dict[str, int])
    objection_to: Callable[[Ticket], str] = is_awaited


class Coordinator:
    """A running gRPC server.

    Attributes:
        terms: What it holds nodes to.
        nodes: Who has joined, and what waits for them.
        arrivals: What has come in.
        payloads: Broadcasts that can be downloaded, by digest.
        store: Keeps what is acknowledged.
        security: Who may call.
        address: Where it listens, as ``host:port``.
        progress: Set by whoever runs the rounds.
    """

    def __init__(
        self,
        terms: Terms,
        listen: str,
        clock: Callable[[], float],
        *,
        store: Store | None = None,
        security: Security | None = None,
    ) -> None:
        """Prepare to listen.

        Args:
            terms: What nodes are told and held to.
            listen: ``host:port``; port 0 picks one.
            clock: Seconds, monotonic.
            store: Keeps what is acknowledged; by default nothing outlives this process.
            security: Who may call; by default everybody.
        """
        self.terms = terms
        self._lateness = Lateness()
        self.nodes: Nodes[pb.Work] = Nodes(self._heard_s)
        self.arrivals: Queue[Incoming] = Queue()
        self.payloads: dict[bytes, Packed] = {}
        self.store = store or Store.in_memory()
        self._owns_store = store is None
        self.security = security or Open()
        self.address = ""
        self.progress = Progress()
        self._clock = clock
        self._listen = listen
        self._over = False
        self._looked_s = -math.inf
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

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Stop. Nodes are dismissed, unless the run was interrupted and may go on: they wait."""
        if error is None or isinstance(error, RunFailed):
            self.dismiss()
        else:
            self._refuse_arrivals()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._owns_store:
            self.store.close()

    def dismiss(self) -> None:
        """Tell all nodes that the run is over, and give them a moment to hear it."""
        if not self._over:
            self._over = True
            self._refuse_arrivals()
            self.nodes.send_to_all(pb.Work(over=pb.RunOver(reason=_OVER)))
            self.nodes.wait_until_taken(FAREWELL_S)

    def send_away(self, node: str, reason: str) -> bool:
        """Give a node no further work, and let it go when it has done what it has.

        Returns:
            Whether there is such a node.
        """
        return self.nodes.dismiss(node, pb.Work(over=pb.RunOver(reason=reason)))

    def expel(self, node: str, why: str) -> bool:
        """Remove a node at once, whatever it does; tell whether it was there."""
        return self.nodes.expel(node, why)

    def remove_silent(self) -> None:
        """Remove the nodes that have not called for too long; they are looked for now and then."""
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for node in self.nodes.remove_silent(LEASE_S):
            self.security.record("left", node=node.name, why=node.gone)

    def snapshot(self) -> Snapshot:
        """Say what the federation is doing."""
        progress = self.progress
        return snapshot(
            run=self.terms.run,
            rounds=self.terms.rounds,
            done=progress.done,
            population=self.terms.population,
            nodes=self.nodes.statuses(LEASE_S, progress.unanswered),
            open_round=progress.open_round(self._clock()) if progress.open_round else None,
        )

    def submit(self, arrival: Incoming) -> None:
        """Take something in for the thread that runs rounds."""
        self.arrivals.put(arrival)
        if self._over:
            self._refuse_arrivals()

    def objection_to(self, ticket: Ticket) -> str:
        """Say why an update with a ticket cannot count, as things are; empty if it may."""
        return self.progress.objection_to(ticket)

    def note_wait(self, node: str, wait_s: float) -> None:
        """Take in how long a node says that its call has waited before it was accepted."""
        self._lateness.waited(node, wait_s)

    def _refuse_arrivals(self) -> None:
        """Answer whatever still waits: the run is over, or will go on in another process."""
        with suppress(Empty):
            while True:
                arrival = self.arrivals.get_nowait()
                if isinstance(arrival, Arrival) and self._over:
                    arrival.verdict.set_result(_OVER)
                elif isinstance(arrival, Arrival):
                    arrival.verdict.set_exception(SendAgain("the coordinator stops"))

    def _heard_s(self) -> float:
        """Return the time by which silence is measured: it stands still while this side is late."""
        return self._clock() - self._lateness.total_s(time.monotonic())

    async def _pulse(self) -> None:
        """Note again and again that the event loop turns."""
        while True:
            self._lateness.turned(time.monotonic())
            await asyncio.sleep(PULSE_S)

    def _serve(self) -> None:
        try:
            with prompt():
                asyncio.run(self._main())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        options = [*OPTIONS, ("grpc.max_allowed_incoming_connections", connections_at_most())]
        server = aio.server(options=options, interceptors=self.security.interceptors)
        federation = Federation(
            *(self.terms, self.nodes, self.payloads, self.store, self.security, self),
        )
        pb_grpc.add_FederationServicer_to_server(federation, server)
        health = await health_servicer([_SERVICE], time.time)
        health_pb_grpc.add_HealthServicer_to_server(health, server)
        self.security.add_services(server, self)
        try:
            port = self.security.add_port(server, self._listen)
        except RuntimeError as error:
            del server  # it goes while its loop still turns, and no traceback holds it
            raise ConfigError(
                f"cannot listen on {self._listen}: choose a free address with --listen"
            ) from error.with_traceback(None)
        await server.start()
        self.address = f"{self._listen.rpartition(':')[0]}:{port}"
        pulse = asyncio.create_task(self._pulse())
        try:
            await self.security.start()
            self._started.set_result(None)
            await self._stop.wait()
        finally:
            pulse.cancel()
            await server.stop(grace=_GRACE_S if self._over else 0.0)
            await self.security.stop()
