"""Messages of a ServerApp as nodes get them: what those would refuse is refused here, at once."""

import json
from collections import deque
from collections.abc import Sequence

import torch
from blake3 import blake3

from roundel.core.broadcast import broadcast_tensors
from roundel.core.errors import ProtocolError
from roundel.core.tensorbytes import lay_out
from roundel.core.wire.payload import Packed
from roundel.simulations.flowerapps.parcels import Fields, Parcel, Task
from roundel.simulations.flowerapps.served.checking import check_records
from roundel.simulations.flowerapps.served.wired import BODY, HEAD, check_metadata, head_of


def check_sendable(tasks: Sequence[Task]) -> None:
    """Refuse messages that a node would refuse; neighbours of one content are looked at once.

    Raises:
        ProtocolError: There is one; it says to which client, and why.
    """
    before: Task | None = None
    for task in tasks:
        if before is None or not _is_alike(task, before):
            try:
                _check(task)
            except (ProtocolError, TypeError, ValueError) as error:
                raise ProtocolError(
                    f"the message to client {task.client} cannot be sent to a node: {error}"
                ) from error
        before = task


def packed_message(content: Parcel, metadata: Fields) -> Packed:
    """Return a message as nodes download it; its buffers are not copied.

    Args:
        content: Of the message.
        metadata: Of the message, as far as it is the same for all who get this content.

    Raises:
        ProtocolError: It cannot travel.
    """
    head = bytearray(head_of(content, metadata=metadata))
    channels = {
        HEAD: torch.frombuffer(head, dtype=torch.uint8),
        BODY: torch.empty(content.size_bytes, dtype=torch.uint8),  # for its size: never touched
    }
    nothing = torch.empty(0), torch.empty(0, dtype=torch.int64)
    *front, _ = lay_out(broadcast_tensors(*nothing, channels))
    pieces = (*front, *(memoryview(buffer) for buffer in content.buffers))
    digest = blake3()
    for piece in pieces:
        digest.update(piece)
    return Packed(pieces, digest.digest())


def _check(task: Task) -> None:
    """Look at a message as a node does, which reads it from JSON."""
    said = json.loads(head_of(task.content, metadata=task.metadata))
    check_records(said["records"], deque(task.content.buffers))
    check_metadata(said["metadata"])


def _is_alike(task: Task, other: Task) -> bool:
    """Tell, without much work, whether two messages have the same content."""
    here, there = task.content, other.content
    return (
        len(here.buffers) == len(there.buffers)
        and all(a is b for a, b in zip(here.buffers, there.buffers, strict=True))
        and here.records == there.records
        and all(
            task.metadata[name] == other.metadata[name] for name in ("message_type", "group_id")
        )
    )
