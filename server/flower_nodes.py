"""Which node of Flower's plays which clients, and how they are asked."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from warnings import warn

from roundel.core.errors import ProtocolError, RunFailed
from roundel.core.fingerprint import misfit
from roundel.core.flower import Answer, Work, read_answers, read_hello, work_content
from roundel.core.flower_names import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MessageType,
    RecordDict,
)

_LOOK_S = 0.5
_NEW_S = 30.0
"""How long a round waits for what new nodes say."""


@dataclass(kw_only=True)
class Roster:
    """The nodes of a run, and the clients that each of them plays.

    Attributes:
        population: N.
        fingerprint: What each node must have made of the experiment; empty if any will do.
        wait_s: How long to wait until each client has a node.
        clock: Seconds, monotonic.
        sleep: Waits for some seconds: a Grid can be asked for replies, and tells of none.
    """

    population: int
    fingerprint: str
    wait_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _nodes: dict[int, int] = field(default_factory=dict[int, int], init=False)
    _known: set[int] = field(default_factory=set[int], init=False)
    _asked: dict[int, str] = field(default_factory=dict[int, str], init=False)
    _met: bool = field(default=False, init=False)

    def node_of(self, client_id: int) -> int | None:
        """Return the node that plays a client; None if there is none now."""
        return self._nodes.get(client_id)

    def meet(self, grid: Grid) -> None:
        """Wait until all clients have a node, the first time; later hear whoever is new.

        Who is gone plays nobody, and is asked again should it come back.

        Raises:
            RunFailed: The first time, that some clients have no node in time, or that a node cannot
                take part. Later such a node is left out, with a warning.
        """
        until_s = self.clock() + (_NEW_S if self._met else self.wait_s)
        while not self._look(grid):
            if self.clock() < until_s:
                self.sleep(_LOOK_S)
            elif self._met:
                return
            else:
                raise RunFailed(
                    f"{self.population - len(self._nodes)} of {self.population} clients have no "
                    f"node after {self.wait_s:g} s; start a SuperNode for each partition-id, or "
                    "wait longer by wait-s"
                )
        self._met = True

    def _look(self, grid: Grid) -> bool:
        """See who is there; return whether there is nobody to wait for."""
        here = set(grid.get_node_ids())
        self._known &= here
        self._nodes = {c: node for c, node in self._nodes.items() if node in here}
        self._asked = {node: number for node, number in self._asked.items() if node in here}
        self._ask(grid, sorted(here.difference(self._asked, self._known)))
        self._hear(grid)
        return len(self._nodes) == self.population or (self._met and not self._asked)

    def _ask(self, grid: Grid, nodes: Sequence[int]) -> None:
        messages = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        numbers = grid.push_messages(messages) if messages else ()
        self._asked |= {node: number for node, number in zip(nodes, numbers, strict=True) if number}

    def _hear(self, grid: Grid) -> None:
        """Take in who has answered."""
        for reply in grid.pull_messages(list(self._asked.values())) if self._asked else ():
            node = reply.metadata.src_node_id
            if node in self._asked:
                del self._asked[node]
                self._known.add(node)
                self._nodes |= dict.fromkeys(self._clients_of(node, reply), node)

    def _clients_of(self, node: int, reply: Message) -> Iterable[int]:
        """Return the clients of a node that has answered; none if it came too late to be useful."""
        try:
            return self._introduced(node, reply)
        except RunFailed as error:
            if not self._met:
                raise
            warn(f"{error}; it is left out", RuntimeWarning, stacklevel=1)
            return ()

    def _introduced(self, node: int, reply: Message) -> Iterable[int]:
        """Return the clients of a node that has answered."""
        if reply.has_error():
            raise RunFailed(f"node {node} cannot take part: {reply.error.reason}")
        try:
            hello = read_hello(reply.content)
        except ProtocolError as error:
            raise RunFailed(f"node {node} cannot take part: {error}") from error
        if hello.trouble:
            raise RunFailed(f"node {node} cannot take part: {hello.trouble}")
        if self.fingerprint and (why := misfit(str(node), hello.fingerprint, self.fingerprint)):
            raise RunFailed(why)
        clients = hello.clients(self.population)
        if taken := [client for client in clients if client in self._nodes]:
            raise RunFailed(
                f"nodes {self._nodes[taken[0]]} and {node} both play client {taken[0]}; give each "
                "SuperNode a partition-id of its own, and all the same num-partitions"
            )
        return clients


def messages_of(
    roster: Roster, works: Sequence[Work], broadcast: ArrayRecord, config: ConfigRecord, kind: str
) -> list[Message]:
    """Return one message for each node that plays some of the clients.

    Args:
        roster: The nodes.
        works: What is asked of clients that have a node.
        broadcast: What goes to all of them.
        config: Likewise.
        kind: What kind of message it is to be.
    """
    by_node: dict[int, list[Work]] = {}
    for work in works:
        if (node := roster.node_of(work.request.ticket.client_id)) is not None:
            by_node.setdefault(node, []).append(work)
    group = str(works[0].request.ticket.round) if works else None
    return [
        Message(work_content(mine, broadcast, config), node, kind, group_id=group)
        for node, mine in by_node.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What came back from the nodes.

    Attributes:
        answers: By client.
        troubles: Node to the reason why it has none.
    """

    answers: Mapping[int, Answer]
    troubles: Mapping[int, str]

    @classmethod
    def read(cls, roster: Roster, replies: Iterable[Message]) -> "Replies":
        """Sort the replies; an answer counts only from the node that plays its client."""
        answers: dict[int, Answer] = {}
        troubles: dict[int, str] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                troubles[node] = f"its node replied with an error: {reply.error.reason}"
                continue
            try:
                found = read_answers(reply.content)
            except ProtocolError as error:
                troubles[node] = f"the reply of its node cannot be read: {error}"
                continue
            answers |= {
                answer.ticket.client_id: answer
                for answer in found
                if roster.node_of(answer.ticket.client_id) == node
            }
        return cls(answers=answers, troubles=troubles)

    def why_none(self, roster: Roster, client_id: int) -> str:
        """Say why a client has not answered."""
        node = roster.node_of(client_id)
        if node is None:
            return "no node plays it"
        return self.troubles.get(node, "no reply came from its node in time")
