"""What goes to a client of a Flower app and comes back, and how it passes between processes.

The arrays of an app are bytes that never change. So nothing copies them in a process, and a frame
to another process holds each buffer once, however many messages refer to it: a model that goes to a
thousand clients is written once, and a state that a client has left alone does not come back.

A frame is a length, a head in JSON, and the buffers. Both ends are forks of one process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import IO, Any

_LENGTH = Struct("<Q")

Fields = Mapping[str, Any]
"""What JSON can hold."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Records of an app.

    Attributes:
        records: What there is besides buffers: for each record its name, its kind and its values.
        buffers: The bytes that it refers to, in the order of their places there.
    """

    records: Sequence[Any] = field(default_factory=list[Any])
    buffers: Sequence[bytes] = field(default_factory=list[bytes])

    @property
    def size_bytes(self) -> int:
        """How many bytes of buffers there are."""
        return sum(map(len, self.buffers))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A message to a client.

    Attributes:
        client: Its number, from 0.
        number: Which of the messages to it this is, from 1.
        metadata: Of the message.
        content: Of the message.
        state: What the client has kept from earlier messages.
    """

    client: int
    number: int
    metadata: Fields
    content: Parcel
    state: Parcel


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why there is no reply.

    Attributes:
        code: What Flower calls it.
        reason: In one line.
        location: ``file:line`` of the app's own code; empty if the process has died.
        traceback: All of it.
    """

    code: int
    reason: str
    location: str = ""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a message.

    Attributes:
        content: Of the reply; None if there is none.
        state: What the client keeps.
        seconds: How long it took.
        trouble: Why there is no reply.
        late: Whether there is none because nobody waits any longer.
    """

    content: Parcel | None = None
    state: Parcel = field(default_factory=Parcel)
    seconds: float = 0.0
    trouble: Trouble | None = None
    late: bool = False


class Buffers:
    """Buffers by their place, each once.

    Args:
        known: Those that the other end has already.
    """

    def __init__(self, known: Sequence[bytes] = ()) -> None:
        self.all = list(known)
        self._known = len(self.all)
        self._places = {id(buffer): place for place, buffer in enumerate(self.all)}

    @property
    def new(self) -> list[bytes]:
        """Those that the other end has not."""
        return self.all[self._known :]

    def fields(self, parcel: Parcel) -> Fields:
        """Return a parcel with places for buffers."""
        places = [self._place(buffer) for buffer in parcel.buffers]
        return {"records": parcel.records, "buffers": places}

    def parcel(self, fields: Fields) -> Parcel:
        """Return the parcel that `fields` was made of."""
        buffers = [self.all[place] for place in fields["buffers"]]
        return Parcel(records=fields["records"], buffers=buffers)

    def _place(self, buffer: bytes) -> int:
        place = self._places.setdefault(id(buffer), len(self.all))
        if place == len(self.all):
            self.all.append(buffer)
        return place


def write_tasks(stream: IO[bytes], tasks: Sequence[Task]) -> Buffers:
    """Write messages; return their buffers, which answers may refer to."""
    buffers = Buffers()
    said = [
        {
            "client": task.client,
            "number": task.number,
            "metadata": task.metadata,
            "content": buffers.fields(task.content),
            "state": buffers.fields(task.state),
        }
        for task in tasks
    ]
    _write(stream, said, buffers.new)
    return buffers


def read_tasks(stream: IO[bytes]) -> tuple[list[Task], Buffers]:
    """Read messages, and their buffers.

    Raises:
        EOFError: The other end is gone.
    """
    said, new = _read(stream)
    buffers = Buffers(new)
    tasks = [
        Task(
            client=each["client"],
            number=each["number"],
            metadata=each["metadata"],
            content=buffers.parcel(each["content"]),
            state=buffers.parcel(each["state"]),
        )
        for each in said
    ]
    return tasks, buffers


def write_answer(stream: IO[bytes], answer: Answer, known: Buffers) -> None:
    """Write an answer to one of several messages, whose buffers the other end knows."""
    buffers = Buffers(known.all)
    said = {
        "content": None if answer.content is None else buffers.fields(answer.content),
        "state": buffers.fields(answer.state),
        "seconds": answer.seconds,
        "trouble": None if answer.trouble is None else vars(answer.trouble),
    }
    _write(stream, said, buffers.new)


def read_answer(stream: IO[bytes], known: Buffers) -> Answer:
    """Read an answer.

    Raises:
        EOFError: The other end is gone.
    """
    said, new = _read(stream)
    buffers = Buffers([*known.all, *new])
    return Answer(
        content=None if said["content"] is None else buffers.parcel(said["content"]),
        state=buffers.parcel(said["state"]),
        seconds=said["seconds"],
        trouble=None if said["trouble"] is None else Trouble(**said["trouble"]),
    )


def _write(stream: IO[bytes], said: object, buffers: Sequence[bytes]) -> None:
    head = json.dumps([said, [len(buffer) for buffer in buffers]]).encode()
    stream.write(_LENGTH.pack(len(head)))
    stream.write(head)
    for buffer in buffers:
        stream.write(buffer)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[Any, list[bytes]]:
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    said, sizes = json.loads(_exactly(stream, length))
    return said, [_exactly(stream, size) for size in sizes]


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
