"""Which nodes there are, which clients they host, and what waits for them.

Shared between the threads that answer calls and the thread that runs rounds; every method may be
called from any of them.

A node is its name. When a name joins again, the session that it had is fenced; the clients of that
session stay where they are, and count as hosted, until the new one says what it hosts or has been
silent for too long.
"""

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from roundel.core.errors import ProtocolError, SessionLost
from roundel.core.messages import Ticket
from roundel.core.status import Activity, Capabilities, NodeStatus
from roundel.core.wire.payload import Receiver
from roundel.server.spool import SpoolReceiver
from roundel.server.status import node_state
from roundel.server.verdicts import Verdicts

WorkT = TypeVar("WorkT")

_UNKNOWN = Capabilities()
_IDLE = 1_000
"""How many nodes may be known that host nothing, or that are gone."""

_FENCED = 10_000
"""How many sessions are remembered that another one of the same name has replaced."""


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
    receiver: Receiver | SpoolReceiver


@dataclass
class Node(Generic[WorkT]):
    """One node in one session.

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
        verdicts: What becomes of its latest answers, so that one which is sent again is not another
            one.
        leaving: Whether it is being sent away: it answers what it was asked, and gets no more.
        gone: Why it is not here any more, in one sentence; empty while it is.
        capabilities: What it computes with.
        activity: What it said that it does.
        round: The round that it last had work of.
        bytes_up: Payload bytes that came from it, in all its sessions.
        bytes_down: Payload bytes that it was sent.
        failures: How many answers of its clients did not count.
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
    verdicts: Verdicts = field(default_factory=Verdicts)
    leaving: bool = False
    gone: str = ""
    capabilities: Capabilities = Capabilities()
    activity: Activity | None = None
    round: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    failures: int = 0


class Nodes(Generic[WorkT]):
    """All nodes of a run.

    Attributes:
        departures: Grows whenever clients may have lost their node.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.departures = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._nodes: dict[str, Node[WorkT]] = {}  # by session, those that are there
        self._newest: dict[str, Node[WorkT]] = {}  # by name, there or not
        self._fenced: dict[str, Node[WorkT]] = {}  # by session, until the clients have moved
        self._replaced: dict[str, None] = {}
        self._host_of: dict[int, str] = {}
        self._last_host: dict[int, Node[WorkT]] = {}

    def join(self, name: str, capabilities: Capabilities = _UNKNOWN) -> str:
        """Let a node in; return its session. One that it had before is fenced."""
        session = uuid.uuid4().hex
        with self._lock:
            now_s = self._clock()
            node: Node[WorkT] = Node(name, session, seen_s=now_s, capabilities=capabilities)
            if before := self._newest.get(name):
                node.bytes_up, node.bytes_down = before.bytes_up, before.bytes_down
                node.failures, node.round = before.failures, before.round
                # One unfinished upload is kept of a node, however often it joins.
                node.unfinished, before.unfinished = before.unfinished, None
                self._fence(before, now_s)
            self._nodes[session] = self._newest[name] = node
            self._forget_idle()
        return session

    def host(self, session: str, clients: Iterable[int]) -> None:
        """Write down which clients a node hosts; those of the session before it are free then.

        Raises:
            ProtocolError: Another node hosts one of them already.
        """
        hosted = tuple(dict.fromkeys(clients))
        with self._lock:
            node = self._node(session)
            for client_id in hosted:
                other = self._holder(client_id)
                if other is not None and other.name != node.name:
                    raise ProtocolError(
                        f"client {client_id} is hosted by node {other.name!r} "
                        f"already; give node {node.name!r} another share with --partition"
                    )
            for other in [node, *self._fenced.values()]:
                if other.name == node.name:
                    self._free(other)
            for client_id in hosted:
                self._host_of[client_id] = session
                self._last_host[client_id] = node
            node.clients = hosted
            self._changed.notify_all()

    def seen(self, session: str) -> Node[WorkT]:
        """Note that a node has called.

        Raises:
            SessionLost: There is no such session.
            ProtocolError: Another session has taken its place.
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

    def send(self, client_id: int, work: WorkT) -> str | None:
        """Queue work for the node that hosts a client.

        Returns:
            Its session; None if there is none, or it is being sent away.
        """
        with self._lock:
            node = self._holder(client_id)
            if node is None or node.leaving:
                return None
            self._queue(node, work)
            return node.session

    def send_by_node(self, clients: Sequence[int], make: Callable[[Sequence[int]], WorkT]) -> None:
        """Queue one piece of work for each node, made from those of its clients that are named."""
        with self._lock:
            chosen: dict[str, list[int]] = {}
            for client_id in clients:
                if session := self._host_of.get(client_id):
                    chosen.setdefault(session, []).append(client_id)
        for session, mine in chosen.items():  # the lock in between: calls are answered meanwhile
            work = make(mine)
            with self._lock:
                if session in self._nodes:
                    self._queue(self._nodes[session], work)

    def send_to_all(self, work: WorkT) -> None:
        """Queue work for every node."""
        with self._lock:
            for node in self._nodes.values():
                self._queue(node, work)

    def dismiss(self, name: str, farewell: WorkT) -> bool:
        """Send a node away once it has done what waits for it; tell whether it is there.

        Args:
            name: The node's.
            farewell: The last work that it gets.
        """
        with self._lock:
            node = self._newest.get(name)
            if node is None or node.session not in self._nodes:
                return False
            if not node.leaving:
                self._queue(node, farewell)
                node.leaving = True
                self.departures += 1
            return True

    def expel(self, name: str, why: str) -> bool:
        """Remove a node at once, whatever it does; tell whether it was there."""
        with self._lock:
            node = self._newest.get(name)
            if node is None or node.session not in self._nodes:
                return False
            self._remove(node, why)
            return True

    def take(
        self, session: str, taken: int, wake: Callable[[], None] | None = None
    ) -> tuple[int, WorkT] | None:
        """Return the next work of a node with its number, from 1.

        Args:
            session: The node's.
            taken: The number of the last work that has reached the node; a later one is repeated.
            wake: Called once there is work, if there is none now; None leaves it to another call.
        """
        with self._lock:
            node = self._node(session)
            if taken >= node.given:
                node.handed = None
            if node.handed is None and node.work:
                node.handed = node.work.popleft()
                node.given += 1
                self._changed.notify_all()
            if wake is not None or node.handed is not None:
                node.wake = wake if node.handed is None else None
            given = None if node.handed is None else (node.given, node.handed)
            if node.leaving and not node.work:
                self._remove(node, f"its node {node.name!r} was sent away")
            return given

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
            known = [*self._nodes.values(), *self._fenced.values()]
            silent = [node for node in known if node.clients and node.seen_s < limit]
            for node in silent:
                self._remove(node, f"its node {node.name!r} was silent for {lease_s:g} s")
            return silent

    def out_of_reach(self, given_to: Mapping[int, str | None]) -> dict[int, tuple[str, str]]:
        """Return the clients from which nothing will come, as things are.

        Args:
            given_to: Client to the session that was given its work, if one was.

        Returns:
            Client to the name of the node that hosted it last (or nothing), and why it is not here.
        """
        with self._lock:
            return {
                client_id: self._absence(client_id)
                for client_id, session in given_to.items()
                if (holder := self._holder(client_id)) is None
                or (holder.leaving and holder.session != session)
            }

    def statuses(self, lease_s: float, unanswered: Mapping[str, int]) -> list[NodeStatus]:
        """Return what people are shown of every node that has ever joined.

        Args:
            lease_s: How long a node may be silent.
            unanswered: How many answers each session owes.
        """
        with self._lock:
            known = list(self._newest.values())
            now_s = self._clock()
        return [
            _status(node, now_s - node.seen_s, lease_s, unanswered.get(node.session, 0))
            for node in known
        ]

    def _forget_idle(self) -> None:
        """Forget half of the nodes that host nothing if they are too many: the most silent ones.

        One that is there and only makes its task, which may take long, joins anew then.
        """
        if len(self._newest) <= _IDLE:
            return
        idle = [n for n in self._newest.values() if not (n.clients and n.session in self._nodes)]
        idle.sort(key=lambda node: node.seen_s)
        for node in idle[: len(idle) // 2] if len(idle) > _IDLE else ():
            del self._newest[node.name]
            self._nodes.pop(node.session, None)

    def _absence(self, client_id: int) -> tuple[str, str]:
        node = self._last_host.get(client_id)
        if node is None:
            return "", "no node hosts it"
        return node.name, node.gone or f"its node {node.name!r} hosts it no longer"

    def _holder(self, client_id: int) -> Node[WorkT] | None:
        session = self._host_of.get(client_id)
        if session is None:
            return None
        return self._nodes.get(session) or self._fenced[session]

    def _fence(self, node: Node[WorkT], now_s: float) -> None:
        """Let a session do nothing any more; it holds its clients' places for a while."""
        if self._nodes.pop(node.session, None) is None:
            return
        self._replaced[node.session] = None
        while len(self._replaced) > _FENCED:
            del self._replaced[next(iter(self._replaced))]
        if node.wake is not None:
            node.wake()
            node.wake = None
        if node.clients:
            node.seen_s = now_s  # its name is alive
            self._fenced[node.session] = node

    def _free(self, node: Node[WorkT]) -> None:
        """Let a node host nothing."""
        for client_id in node.clients:
            self._host_of.pop(client_id, None)
        node.clients = ()
        self._fenced.pop(node.session, None)
        self.departures += 1

    def _remove(self, node: Node[WorkT], why: str) -> None:
        self._nodes.pop(node.session, None)
        clients = node.clients
        self._free(node)
        node.clients = clients
        node.gone = why
        self._changed.notify_all()

    def _queue(self, node: Node[WorkT], work: WorkT) -> None:
        if node.leaving:
            return
        node.work.append(work)
        if node.wake is not None:
            node.wake()
            node.wake = None

    def _node(self, session: str) -> Node[WorkT]:
        node = self._nodes.get(session)
        if node is not None:
            return node
        if session in self._replaced:
            raise ProtocolError(
                "another node of this name has joined since; give each node a name of its own "
                "with --name"
            )
        raise SessionLost("this node is not known here, or was silent for too long; join anew")


def _status(node: Node[WorkT], silent_s: float, lease_s: float, unanswered: int) -> NodeStatus:
    drained = node.leaving
    gone_s = max(silent_s, lease_s * 1.01) if node.gone else silent_s
    state = node_state(
        silent_s=gone_s,
        lease_s=lease_s,
        clients=len(node.clients),
        unanswered=unanswered,
        activity=node.activity,
        drained=drained,
    )
    return NodeStatus(
        name=node.name,
        state=state,
        clients=len(node.clients),
        round=node.round,
        silent_s=silent_s,
        unanswered=unanswered,
        activity=node.activity,
        bytes_up=node.bytes_up,
        bytes_down=node.bytes_down,
        failures=node.failures,
        capabilities=node.capabilities,
    )
