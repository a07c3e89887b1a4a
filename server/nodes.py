"""Which nodes there are, which clients they host, and what waits for them.

Shared between the threads that answer calls and the thread that runs rounds; every method may be
called from any of them.
"""

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from roundel.core.errors import ProtocolError
from roundel.core.messages import Ticket
from roundel.core.wire.payload import Receiver

WorkT = TypeVar("WorkT")


@dataclass(frozen=True, eq=False)
class Unfinished:
    """An upload of which not all has arrived.

    Attributes:
        ticket: Whose update it is.
        digest: The payload's digest.
        receiver: What has arrived.
    """

    ticket: Ticket
    digest: bytes
    receiver: Receiver


@dataclass
class Node(Generic[WorkT]):
    """One node.

    Attributes:
        name: What it calls itself.
        session: What it identifies itself with.
        clients: The clients it hosts.
        seen_s: When it last called.
        work: What waits for it, in order.
        wake: Called when there is work; set while a poll waits.
        given: How many pieces of work it was given.
        handed: The last of them, until the node says that it has got it.
        unfinished: What it is uploading, or was when its connection broke.
        verdicts: What becomes of its latest answers, by their digests, so that one which is sent
            again is not another one.
    """

    name: str
    session: str
    clients: tuple[int, ...] = ()
    seen_s: float = 0.0
    work: deque[WorkT] = field(default_factory=deque)
    wake: Callable[[], None] | None = None
    given: int = 0
    handed: WorkT | None = None
    unfinished: Unfinished | None = None
    verdicts: dict[bytes, Future[str | None]] = field(default_factory=dict)


class Nodes(Generic[WorkT]):
    """All nodes of a run."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes: dict[str, Node[WorkT]] = {}
        self._host_of: dict[int, str] = {}
        self._changed = threading.Condition(self._lock)

    def join(self, name: str) -> str:
        """Let a node in; return its session."""
        session = uuid.uuid4().hex
        with self._lock:
            self._nodes[session] = Node(name, session, seen_s=self._clock())
        return session

    def host(self, session: str, clients: Iterable[int]) -> None:
        """Write down which clients a node hosts.

        Raises:
            ProtocolError: Another node hosts one of them already.
        """
        hosted = tuple(dict.fromkeys(clients))
        with self._lock:
            node = self._node(session)
            for client_id in hosted:
                other = self._host_of.get(client_id)
                if other not in (None, session):
                    raise ProtocolError(
                        f"client {client_id} is hosted by node {self._nodes[other].name!r} "
                        f"already; give node {node.name!r} another share with --partition"
                    )
            for client_id in node.clients:
                del self._host_of[client_id]
            for client_id in hosted:
                self._host_of[client_id] = session
            node.clients = hosted
            self._changed.notify_all()

    def seen(self, session: str) -> Node[WorkT]:
        """Note that a node has called.

        Raises:
            ProtocolError: There is no such session.
        """
        with self._lock:
            node = self._node(session)
            node.seen_s = self._clock()
            return node

    def hosted(self) -> int:
        """Return how many clients are hosted."""
        with self._lock:
            return len(self._host_of)

    def wait_for(self, clients: int, timeout_s: float) -> bool:
        """Wait until so many clients are hosted; tell whether they are."""
        with self._lock:
            return self._changed.wait_for(lambda: len(self._host_of) >= clients, timeout_s)

    def send(self, client_id: int, work: WorkT) -> bool:
        """Queue work for the node that hosts a client; tell whether there is one."""
        with self._lock:
            session = self._host_of.get(client_id)
            if session is None:
                return False
            self._queue(self._nodes[session], work)
            return True

    def send_by_node(self, clients: Sequence[int], make: Callable[[Sequence[int]], WorkT]) -> None:
        """Queue one piece of work for each node, made from those of its clients that are named."""
        with self._lock:
            chosen: dict[str, list[int]] = {}
            for client_id in clients:
                if session := self._host_of.get(client_id):
                    chosen.setdefault(session, []).append(client_id)
            for session, mine in chosen.items():
                self._queue(self._nodes[session], make(mine))

    def send_to_all(self, work: WorkT) -> None:
        """Queue work for every node."""
        with self._lock:
            for node in self._nodes.values():
                self._queue(node, work)

    def take(self, session: str, taken: int, wake: Callable[[], None]) -> tuple[int, WorkT] | None:
        """Return the next work of a node with its number, from 1.

        Args:
            session: The node's.
            taken: The number of the last work that has reached the node; a later one is repeated.
            wake: Called once there is work, if there is none now.
        """
        with self._lock:
            node = self._node(session)
            if taken >= node.given:
                node.handed = None
            if node.handed is None and node.work:
                node.handed = node.work.popleft()
                node.given += 1
                self._changed.notify_all()
            node.wake = wake if node.handed is None else None
            return None if node.handed is None else (node.given, node.handed)

    def withdraw(self, unwanted: Callable[[WorkT], bool]) -> None:
        """Forget the work that still waits and is wanted no longer."""
        with self._lock:
            for node in self._nodes.values():
                node.work = deque(work for work in node.work if not unwanted(work))
                if node.handed is not None and unwanted(node.handed):
                    node.handed = None

    def wait_until_taken(self, timeout_s: float) -> bool:
        """Wait until no work waits for a node that hosts clients; tell whether none does."""

        def taken() -> bool:
            return not any(node.clients and node.work for node in self._nodes.values())

        with self._lock:
            return self._changed.wait_for(taken, timeout_s)

    def hosts(self, session: str, client_id: int) -> bool:
        """Tell whether this node hosts this client."""
        with self._lock:
            return self._host_of.get(client_id) == session

    def remove_silent(self, lease_s: float) -> list[Node[WorkT]]:
        """Remove the nodes that have not called for too long; return them.

        A node that hosts nothing yet is still making its task, which may take long: it stays.
        """
        with self._lock:
            limit = self._clock() - lease_s
            silent = [n for n in self._nodes.values() if n.clients and n.seen_s < limit]
            for node in silent:
                del self._nodes[node.session]
                for client_id in node.clients:
                    del self._host_of[client_id]
            return silent

    def _queue(self, node: Node[WorkT], work: WorkT) -> None:
        node.work.append(work)
        if node.wake is not None:
            node.wake()
            node.wake = None

    def _node(self, session: str) -> Node[WorkT]:
        node = self._nodes.get(session)
        if node is None:
            raise ProtocolError(
                "this node is not known here, or was silent for too long; join anew"
            )
        return node
