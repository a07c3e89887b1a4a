"""A Grid over whoever answers messages."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from roundel.simulations.flowerapps.flower_records import packed, unpacked
from roundel.simulations.flowerapps.nodes import PATIENCE_S, Nodes, TooFewNodes
from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task
from roundel.simulations.flowerapps.seen import Exchange
from roundel.simulations.flowerapps.workers import Ask

_OFTEN = 10
"""Who asks for nodes so many times, and sends nothing, waits for more of them."""


class WorkerGrid(Grid):
    """A Grid whose nodes are clients that workers play, or nodes host.

    All replies are there as soon as messages were pushed, in the order of the messages. With
    workers nothing times out: what comes out would depend on how fast the machine is.

    Args:
        nodes: The federation.
        ask: Has messages answered.
        told: Is told of each exchange.
    """

    def __init__(self, nodes: Nodes, ask: Ask, told: Callable[[Exchange], None]) -> None:
        self._nodes, self._ask, self._told = nodes, ask, told
        self._clients = {node: client for client, node in enumerate(nodes.ids)}
        self._states = [Parcel() for _ in nodes.ids]
        self._counts = [0 for _ in nodes.ids]
        self._replies: dict[str, Message] = {}
        self._lost = 0
        self._lock = threading.Lock()
        self._run = Run.create_empty(nodes.run_id)
        self._run.override_config = dict(nodes.config)
        self._thread = threading.get_ident()
        self._asked, self._asked_since_s = 0, 0.0

    def set_run(self, run: Run) -> None:
        """Say what the run is."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message, as apps of the older kind do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids, in the order of the clients.

        Raises:
            TooFewNodes: The app asks for them again and again, and does nothing else.
        """
        if threading.get_ident() == self._thread:  # apps of the older kind always ask in another
            now_s = time.monotonic()
            if self._asked == 0:
                self._asked_since_s = now_s
            self._asked += 1
            if self._asked >= _OFTEN and now_s - self._asked_since_s >= PATIENCE_S:
                raise TooFewNodes(len(self._nodes.ids))
        return list(self._nodes.ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have messages answered; return their ids."""
        return self._push(messages, None)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to messages that were pushed, once each, in the order asked for."""
        with self._lock:
            return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Have messages answered; return the replies in their order."""
        return self.pull_messages(self._push(messages, timeout))

    def _push(self, messages: Iterable[Message], timeout_s: float | None) -> list[str]:
        self._asked = 0
        # What makes messages one after another may change what it puts into them.
        pack = _packed_once() if isinstance(messages, Sequence) else packed
        sent = [self._sent(message, pack(message.content)) for message in messages]
        known = [(message, task) for message, task in sent if task]
        began = time.monotonic()
        for wave in waves([task.client for _, task in known]):
            passed = time.monotonic() - began
            left = None if timeout_s is None else max(0.0, timeout_s - passed)
            self._exchange([known[place] for place in wave], left)
        return [message.metadata.message_id for message, _ in sent]

    def _sent(self, message: Message, content: Parcel) -> tuple[Message, Task | None]:
        """Number a message; no task if there is no such node."""
        metadata = message.metadata
        client = self._clients.get(metadata.dst_node_id)
        with self._lock:
            if client is None:
                self._lost += 1
                number, whose = self._lost, -1
            else:
                self._counts[client] += 1
                number, whose = self._counts[client], client
            vars(metadata)["_message_id"] = self._nodes.message_id(number, whose)
            if client is None:
                said = f"there is no node {metadata.dst_node_id}"
                error = Error(ErrorCode.NODE_UNAVAILABLE, said)
                self._replies[metadata.message_id] = Message(error, reply_to=message)
                return message, None
        return message, Task(
            client=client,
            number=number,
            metadata=_fields(metadata),
            content=content,
            state=Parcel(),
        )

    def _exchange(self, sent: Sequence[tuple[Message, Task]], timeout_s: float | None) -> None:
        with self._lock:
            tasks = [_with_state(task, self._states[task.client]) for _, task in sent]
        began = time.perf_counter()
        answers = self._ask(tasks, timeout_s)
        ended = time.perf_counter()
        exchange = Exchange(tasks=tasks, answers=answers, began_s=began, ended_s=ended)
        with self._lock:
            for (message, task), answer in zip(sent, answers, strict=True):
                self._states[task.client] = answer.state
                if not answer.late:
                    self._replies[message.metadata.message_id] = _reply(message, answer)
            self._told(exchange)


def _packed_once() -> Callable[[RecordDict], Parcel]:
    """Return what packs contents, each once however many messages have it."""
    done: dict[int, tuple[RecordDict, Parcel]] = {}

    def pack(content: RecordDict) -> Parcel:
        if id(content) not in done:
            done[id(content)] = content, packed(content)  # kept, so that no other has its id
        return done[id(content)][1]

    return pack


def waves(clients: Sequence[int]) -> list[list[int]]:
    """Divide messages so that no client gets two at once; return their places.

    >>> waves([0, 1, 0, 2, 0])
    [[0, 1, 3], [2], [4]]
    """
    found: list[list[int]] = []
    seen: dict[int, int] = {}
    for place, client in enumerate(clients):
        wave = seen[client] = seen.get(client, -1) + 1
        if wave == len(found):
            found.append([])
        found[wave].append(place)
    return found


def _with_state(task: Task, state: Parcel) -> Task:
    return Task(**{**vars(task), "state": state})


def _fields(metadata: Metadata) -> dict[str, Any]:
    return {
        "run_id": metadata.run_id,
        "message_id": metadata.message_id,
        "src_node_id": metadata.src_node_id,
        "dst_node_id": metadata.dst_node_id,
        "reply_to_message_id": metadata.reply_to_message_id,
        "group_id": metadata.group_id,
        "created_at": metadata.created_at,
        "ttl": metadata.ttl,
        "message_type": metadata.message_type,
        "src_task_id": metadata.src_task_id,
        "dst_task_id": metadata.dst_task_id,
    }


def _reply(message: Message, answer: Answer) -> Message:
    if answer.trouble is not None:
        place = f" ({answer.trouble.location})" if answer.trouble.location else ""
        error = Error(answer.trouble.code, answer.trouble.reason + place)
        reply = Message(error, reply_to=message)
    else:
        reply = Message(unpacked(answer.content or Parcel()), reply_to=message)
    vars(reply.metadata)["_message_id"] = f"{message.metadata.message_id}-reply"
    return reply
