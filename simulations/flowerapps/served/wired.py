"""Parcels as the tensors that travel between a coordinator and its nodes.

A parcel is two tensors of bytes: a head in JSON, and all its buffers, one behind the other. What
comes is read field by field: the other end may be hostile.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from roundel.core.errors import ProtocolError
from roundel.core.params import bytes_of
from roundel.core.printable import printable
from roundel.simulations.flowerapps.parcels import Answer, Fields, Parcel, Trouble
from roundel.simulations.flowerapps.served.checking import check_records, check_text

MAX_HEAD = 8 << 20
"""Bytes of a head: what it takes in memory is some twenty times that."""

HEAD, BODY = "head", "body"
"""The tensors of a parcel."""

_BARE = "bare"
_CODES = range(1000)
_LONGEST_REASON = 4096

Tensors = Mapping[str, Tensor]


def tensors_of(parcel: Parcel, **about: object) -> dict[str, Tensor]:
    """Return a parcel as tensors.

    Args:
        parcel: The records.
        about: What else its head is to say, as JSON can hold it.

    Raises:
        ProtocolError: The head is too large.
    """
    return {HEAD: _tensor([head_of(parcel, **about)]), BODY: _tensor(parcel.buffers)}


def head_of(parcel: Parcel, **about: object) -> bytes:
    """Return the head of a parcel: all that it is but its buffers.

    Args:
        parcel: The records.
        about: What else it is to say, as JSON can hold it.

    Raises:
        ProtocolError: It is too large.
    """
    sizes = [len(buffer) for buffer in parcel.buffers]
    head = json.dumps({**about, "records": parcel.records, "sizes": sizes}).encode()
    if len(head) > MAX_HEAD:
        raise ProtocolError(
            f"what is said besides arrays has {len(head)} bytes, more than {MAX_HEAD}; put long "
            "lists into arrays"
        )
    return head


def parcel_of(tensors: Tensors) -> tuple[Parcel, Mapping[str, Any]]:
    """Read a parcel, and what else its head says.

    Raises:
        ProtocolError: It is none.
    """
    said = _head(tensors)
    buffers = _cut(said.pop("sizes", None), bytes_of(_bytes(tensors, BODY)))
    records = said.pop("records", None)
    check_records(records, deque(buffers))
    return Parcel(records=records, buffers=buffers), said


def reply_tensors(answer: Answer) -> dict[str, Tensor]:
    """Return a reply as tensors: its content, or the error that the app replied with.

    It says whether the client keeps nothing; not what it keeps, which stays where it is.

    Raises:
        ProtocolError: It cannot travel.
    """
    trouble = answer.trouble
    error = None if trouble is None else [trouble.code, trouble.reason[:_LONGEST_REASON]]
    bare = {} if answer.state.records else {_BARE: True}
    tensors = tensors_of(answer.content or Parcel(), error=error, **bare)
    parcel_of(tensors)  # what the coordinator would refuse, the client hears of here
    return tensors


def reply_of(tensors: Tensors) -> Answer:
    """Read a reply.

    Raises:
        ProtocolError: It is none.
    """
    content, said = parcel_of(tensors)
    match said.get("error"):
        case None:
            return Answer(content=content)
        case [int(code), str(reason)] if code in _CODES and len(reason) <= _LONGEST_REASON:
            shown = printable(reason, _LONGEST_REASON)
            return Answer(trouble=Trouble(code=int(code), reason=shown))
    raise ProtocolError("the error that the app replied with is none")


def is_bare(tensors: Tensors) -> bool:
    """Tell whether a reply says that its client keeps nothing.

    Raises:
        ProtocolError: It is none.
    """
    return _head(tensors).get(_BARE) is True


def request_tensors(content: Parcel, metadata: Fields) -> dict[str, Tensor]:
    """Return a message as tensors.

    Args:
        content: Of the message.
        metadata: Of the message, as far as it is the same for all who get this content.
    """
    return tensors_of(content, metadata=metadata)


def request_of(tensors: Tensors) -> tuple[Parcel, Fields]:
    """Read a message: its content, and the metadata that went with it.

    Raises:
        ProtocolError: It is none.
    """
    content, said = parcel_of(tensors)
    return content, check_metadata(said.get("metadata"))


def check_metadata(metadata: object) -> Fields:
    """Return the metadata of a message.

    Raises:
        ProtocolError: They are none.
    """
    if not isinstance(metadata, dict):
        raise ProtocolError("a message has no metadata")
    for name in ("message_type", "group_id"):
        check_text(metadata.get(name), f"the {name} of a message", _LONGEST_REASON)
    return metadata


def _head(tensors: Tensors) -> dict[str, Any]:
    data = bytes_of(_bytes(tensors, HEAD))
    if len(data) > MAX_HEAD:
        raise ProtocolError(f"a head of {len(data)} bytes is longer than {MAX_HEAD}")
    try:
        said = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a head is not JSON") from error
    if not isinstance(said, dict):
        raise ProtocolError("a head is not an object")
    return said


def _bytes(tensors: Tensors, name: str) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype is not torch.uint8 or tensor.dim() != 1:
        raise ProtocolError(f"there is no tensor {name!r} of bytes")
    return tensor


def _cut(sizes: object, body: memoryview) -> list[bytes]:
    """Divide a body into buffers."""
    if not isinstance(sizes, list) or not all(type(s) is int and s >= 0 for s in sizes):
        raise ProtocolError("a head does not say how long the buffers are")
    ends = list(accumulate(sizes, initial=0))
    if ends[-1] != len(body):
        raise ProtocolError(f"{len(body)} bytes came, which are not those that a head announces")
    return [bytes(body[begin:end]) for begin, end in pairwise(ends)]


def _tensor(pieces: Sequence[bytes]) -> Tensor:
    """Return bytes, one behind the other, as a tensor."""
    whole, kind = bytearray().join(pieces), torch.uint8
    return torch.frombuffer(whole, dtype=kind) if whole else torch.empty(0, dtype=kind)
