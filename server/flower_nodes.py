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
from roundel.core.printable import printable

_LOOK_S = 0.5
_NEW_S = 30.0
"""How long rounds wait for what a new node says, from when it is there."""


@dataclass(kw_only=True)
class _Listed:
    """A node that is there.

    Attributes:
        since_s: When it was first seen, by the roster's clock.
        question: The number of what it was asked and has not answered.
        plays: The clients that it is for; none if it cannot take part, None if that is not known.
        seated: Whether it plays them: nobody else did.
        failed: Whether it replied with an error, so that this round does not ask it again.
    """

    since_s: float
    question: str | None = None
    plays: range | None = None
    seated: bool = False
    failed: bool = False

    @property
    def is_to_be_asked(self) -> bool:
        return self.question is None and self.plays is None and not self.failed

    @property
    def waits(self) -> bool:
        """Whether it is for clients that another node plays."""
        return self.plays is not None and not self.seated


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
    _here: dict[int, "_Listed"] = field(default_factory=dict[int, "_Listed"], init=False)
    _nodes: dict[int, int] = field(default_factory=dict[int, int], init=False)
    _met: bool = field(default=False, init=False)

    def node_of(self, client_id: int) -> int | None:
        """Return the node that plays a client; None if there is none now."""
        return self._nodes.get(client_id)

    def meet(self, grid: Grid) -> None:
        """Wait until all clients have a node, the first time; later hear whoever is new.

        Who is gone plays nobody, and is asked again should it come back. Who plays what another one
        plays waits until that one is gone: a node that was started anew is listed beside what is
        left of it.

        Raises:
            RunFailed: The first time, that some clients have no node in time or two, or that a node
                cannot take part. Later such a node is left out, with a warning.
        """
        until_s = self.clock() + (_NEW_S if self._met else self.wait_s)
        for listed in self._here.values():
            listed.failed = False
        while not self._look(grid):
            if self.clock() < until_s:
                self.sleep(_LOOK_S)
            elif self._met:
                return
            else:
                raise RunFailed(self._why_not_met())
        self._met = True

    def _look(self, grid: Grid) -> bool:
        """See who is there; return whether there is nobody to wait for."""
        here, now_s = sorted(grid.get_node_ids()), self.clock()
        self._here = {node: self._here.get(node) or _Listed(since_s=now_s) for node in here}
        self._nodes = {c: node for c, node in self._nodes.items() if node in self._here}
        for node in self._here:
            self._seat(node)
        self._ask(grid)
        self._hear(grid)
        listed = self._here.values()
        if self._met:
            late_s = now_s - _NEW_S
            awaited = any(each.question and each.since_s > late_s for each in listed)
            return len(self._nodes) == self.population or not awaited
        return len(self._nodes) == self.population and not any(each.waits for each in listed)

    def _ask(self, grid: Grid) -> None:
        for node, listed in self._here.items():
            if listed.is_to_be_asked:
                # One by one: a Grid may leave out what it could not send, and not say so.
                message = Message(RecordDict(), node, MessageType.QUERY)
                listed.question = next(iter(grid.push_messages([message])), None) or None

    def _hear(self, grid: Grid) -> None:
        """Take in who has answered."""
        questions = [each.question for each in self._here.values() if each.question]
        for reply in grid.pull_messages(questions) if questions else ():
            node = reply.metadata.src_node_id
            listed = self._here.get(node)
            if listed is not None and listed.question:
                listed.question = None
                listed.failed = reply.has_error()
                listed.plays = self._clients_of(node, reply)
                self._seat(node)
                if listed.waits:
                    warn(self._double(node, listed.plays), RuntimeWarning, stacklevel=1)

    def _seat(self, node: int) -> None:
        """Give a node that waits what it plays, if nobody else plays any of it."""
        listed = self._here[node]
        if listed.waits and self._nodes.keys().isdisjoint(listed.plays or ()):
            listed.seated = True
            self._nodes |= dict.fromkeys(listed.plays or (), node)

    def _clients_of(self, node: int, reply: Message) -> range | None:
        """Return the clients of a node that has answered; None if it may have others next time."""
        try:
            return self._introduced(node, reply)
        except RunFailed as error:
            if not self._met:
                raise
            again = "; it is asked again before the next round" if reply.has_error() else ""
            warn(f"{error}; it is left out{again}", RuntimeWarning, stacklevel=1)
            return None if reply.has_error() else range(0)

    def _introduced(self, node: int, reply: Message) -> range:
        """Return the clients of a node that has answered."""
        if reply.has_error():
            raise RunFailed(f"node {node} cannot take part: {_reason(reply)}")
        try:
            hello = read_hello(reply.content)
        except ProtocolError as error:
            raise RunFailed(f"node {node} cannot take part: {error}") from error
        if hello.trouble:
            raise RunFailed(f"node {node} cannot take part: {hello.trouble}")
        if self.fingerprint and (why := misfit(str(node), hello.fingerprint, self.fingerprint)):
            raise RunFailed(why)
        return hello.clients(self.population)

    def _why_not_met(self) -> str:
        for node, listed in self._here.items():
            if listed.waits:
                return self._double(node, listed.plays)
        return (
            f"{self.population - len(self._nodes)} of {self.population} clients have no "
            f"node after {self.wait_s:g} s; start a SuperNode for each partition-id, or "
            "wait longer by wait-s"
        )

    def _double(self, node: int, plays: Iterable[int] | None) -> str:
        client = next(client for client in plays or () if client in self._nodes)
        return (
            f"nodes {self._nodes[client]} and {node} both play client {client}, so node {node} "
            "waits until the other is gone; give each SuperNode a partition-id of its own, and all "
            "the same num-partitions"
        )


def _reason(reply: Message) -> str:
    return printable(reply.error.reason or "it gave no reason")


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
                troubles[node] = f"its node replied with an error: {_reason(reply)}"
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
