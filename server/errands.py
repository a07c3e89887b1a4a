"""Work of one kind that is to be done for clients, and which nodes have been given it."""

from collections import Counter
from collections.abc import Collection, Mapping

from roundel.core.wire import roundel_pb2 as pb
from roundel.server.nodes import Nodes


class Errands:
    """What clients still owe, from the moment that it is asked for until it is answered.

    Work is given again to a node that comes to host its client, once in each session.

    Attributes:
        unanswered: How many answers each session owes.
    """

    def __init__(self, nodes: Nodes[pb.Work]) -> None:
        self.unanswered: Counter[str] = Counter()
        self._nodes = nodes
        self._work: dict[int, pb.Work] = {}
        self._given_to: dict[int, str | None] = {}
        self._departures = -1
        self._away: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        """Return how many answers are open."""
        return len(self._work)

    def __contains__(self, client_id: object) -> bool:
        """Tell whether a client owes an answer."""
        return client_id in self._work

    def give(self, client_id: int, work: pb.Work) -> None:
        """Ask a client's node for something, now or when there is one."""
        self.drop(client_id)
        self._work[client_id] = work
        self._send(client_id)

    def drop(self, client_id: int) -> None:
        """Ask for it no longer: it was answered, or given up."""
        if self._work.pop(client_id, None) is not None:
            self._away.pop(client_id, None)
            session = self._given_to.pop(client_id)
            if session is not None:
                self.unanswered[session] -= 1

    def hosted(self, clients: Collection[int]) -> None:
        """Ask the node that has come to host these clients for what they owe."""
        for client_id in clients:
            if client_id in self._work and not self._is_with_its_host(client_id):
                self._send(client_id)

    def away(self) -> Mapping[int, tuple[str, str]]:
        """Return the clients that owe something which nobody does; see `Nodes.out_of_reach`.

        It is asked whenever something comes in, and all clients are looked at only if one of them
        may have lost its node or got another.
        """
        departures = self._nodes.departures
        if departures != self._departures:
            self._departures = departures
            self._away = self._nodes.out_of_reach(self._given_to)
        return self._away

    def _is_with_its_host(self, client_id: int) -> bool:
        session = self._given_to[client_id]
        return session is not None and self._nodes.hosts(session, client_id)

    def _send(self, client_id: int) -> None:
        before = self._given_to.get(client_id)
        if before is not None:
            self.unanswered[before] -= 1
        session = self._nodes.send(client_id, self._work[client_id])
        self._given_to[client_id] = session
        if session is None:
            self._departures = -1  # look again
        else:
            self.unanswered[session] += 1
