"""Tensors as payloads: a JSON header and raw data, laid out as `roundel.core.tensorbytes` says.

Reading never executes anything and checks every number before it is used; tensors are views of the
buffer that was received.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from mmap import mmap
from typing import Any, TypeAlias

import torch
from blake3 import blake3
from torch import Tensor

from roundel.core.errors import ProtocolError
from roundel.core.recycling import empty
from roundel.core.tensorbytes import DTYPES, WORD, lay_out
from roundel.core.wire.limits import CHUNK

MAX_HEADER = 1 << 16
_MAX_AXES = 8
_MOST = 1 << 48

_DTYPES: Mapping[str, torch.dtype] = {
    name: DTYPES[name]
    for name in ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
}

Whole: TypeAlias = bytearray | memoryview | mmap
"""A whole payload, in memory that may be written to."""

Made: TypeAlias = Callable[[Sequence[memoryview]], bytes]


@dataclass(frozen=True)
class Packed:
    """Tensors ready to be sent; they share their memory, so they must stay as they are.

    Attributes:
        pieces: The payload, in order.
        digest: Its digest, which also names it.
    """

    pieces: tuple[memoryview, ...]
    digest: bytes

    @property
    def size(self) -> int:
        """How many bytes the payload has."""
        return sum(len(piece) for piece in self.pieces)

    @property
    def data(self) -> bytes:
        """The whole payload, copied."""
        return b"".join(self.pieces)

    def chunks(self, offset: int = 0, made: Made = b"".join) -> Iterator[bytes]:
        """Yield the payload from an offset on, `CHUNK` bytes at a time.

        Args:
            offset: Where to begin.
            made: Makes what is yielded of the pieces of one chunk.
        """
        chunk: list[memoryview] = []
        room = CHUNK
        for piece in self.pieces:
            skipped = min(offset, len(piece))
            offset -= skipped
            rest = piece[skipped:]
            while rest:
                part, rest = rest[:room], rest[room:]
                chunk.append(part)
                room -= len(part)
                if not room:
                    yield made(chunk)
                    chunk, room = [], CHUNK
        if chunk:
            yield made(chunk)


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """Return the digest of a payload, by BLAKE3: 32 bytes.

    It names a payload and finds damage. It is computed many times faster than a network delivers.
    """
    return blake3(data).digest()


def pack(tensors: Mapping[str, Tensor]) -> Packed:
    """Serialise named tensors, without copying them.

    Raises:
        ProtocolError: A dtype cannot travel.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES.values():
            raise ProtocolError(f"tensor {name!r} of dtype {tensor.dtype} cannot be sent")
    pieces = tuple(lay_out(tensors))
    if len(pieces[0]) > WORD + MAX_HEADER:
        raise ProtocolError(f"{len(tensors)} tensors have a header of more than {MAX_HEADER} bytes")
    digest = blake3()
    for piece in pieces:
        digest.update(piece)
    return Packed(pieces, digest.digest())


def unpack(data: Whole) -> dict[str, Tensor]:
    """Read named tensors; they share the buffer's memory.

    Args:
        data: A whole payload.

    Raises:
        ProtocolError: It is not one; nothing was allocated that it did not bring along.
    """
    length = int.from_bytes(data[:WORD], "little")
    if len(data) < WORD or length > min(MAX_HEADER, len(data) - WORD):
        raise ProtocolError(f"a payload of {len(data)} bytes has no whole header")
    try:
        header = json.loads(bytes(data[WORD : WORD + length]))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a payload's header is not JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("a payload's header is not an object")
    body = memoryview(data)[WORD + length :]
    tensors: dict[str, Tensor] = {}
    position = 0
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        if begin != position or end - begin != prod(shape) * dtype.itemsize or end > len(body):
            raise ProtocolError(
                f"the extent of tensor {name!r:.100} contradicts its shape or the data"
            )
        if (WORD + length + begin) % dtype.itemsize:
            raise ProtocolError(f"tensor {name!r:.100} is not aligned to its dtype {dtype}")
        tensors[name] = _view(name, body[begin:end], dtype).view(shape)
        position = end
    if position != len(body):
        raise ProtocolError(f"a payload has {len(body) - position} bytes that no tensor claims")
    return tensors


def check_size(size: int, limit: int) -> None:
    """Refuse a payload by its announced size, before anything is read.

    Raises:
        ProtocolError: It is too small for a payload, or above the limit.
    """
    if not WORD <= size <= limit:
        raise ProtocolError(f"a payload of {size} bytes is not between {WORD} and {limit} bytes")


class Receiver:
    """Takes the chunks of one payload into one buffer of a size known before."""

    def __init__(self, size: int, digest: bytes, limit: int) -> None:
        """Allocate the buffer.

        Raises:
            ProtocolError: The size is above the limit.
        """
        check_size(size, limit)
        self._data = empty(size, torch.uint8).numpy().data  # not written before it is needed
        self._digest = digest
        self._filled = 0

    @property
    def filled(self) -> int:
        """How many bytes have arrived."""
        return self._filled

    @property
    def complete(self) -> bool:
        """Whether all have."""
        return self._filled == len(self._data)

    def rewind(self, offset: int) -> None:
        """Let the next chunk come at an offset.

        Raises:
            ProtocolError: Not all that is before it has arrived.
        """
        if offset > self._filled:
            raise ProtocolError(
                f"a payload cannot go on at byte {offset}: {self._filled} have arrived"
            )
        self._filled = offset

    def take(self, chunk: bytes | memoryview) -> None:
        """Append a chunk.

        Raises:
            ProtocolError: It would go past the announced size.
        """
        end = self._filled + len(chunk)
        if end > len(self._data):
            raise ProtocolError(f"more than the announced {len(self._data)} bytes arrived")
        self._data[self._filled : end] = chunk
        self._filled = end

    def finish(self) -> memoryview:
        """Return the payload.

        Raises:
            ProtocolError: It is incomplete, or its digest differs.
        """
        if self._filled != len(self._data):
            raise ProtocolError(f"{self._filled} of {len(self._data)} announced bytes arrived")
        if digest_of(self._data) != self._digest:
            raise ProtocolError("the payload's digest differs from the announced one")
        return self._data


def _view(name: str, data: memoryview, dtype: torch.dtype) -> Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool and int(torch.frombuffer(data, dtype=torch.uint8).max()) > 1:
        raise ProtocolError(f"tensor {name!r:.100} of dtype {dtype} holds more than 0 and 1")
    return torch.frombuffer(data, dtype=dtype)


def _entry(name: str, entry: Mapping[str, Any]) -> tuple[torch.dtype, list[int], int, int]:
    try:
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the header's entry for tensor {name!r:.100} is not valid") from error
    numbers = [*shape, begin, end] if isinstance(shape, list) and len(shape) <= _MAX_AXES else [-1]
    if not all(type(n) is int and 0 <= n < _MOST for n in numbers) or (
        prod(max(1, n) for n in shape) >= _MOST  # also where another axis has length 0
    ):
        raise ProtocolError(f"the header's entry for tensor {name!r:.100} is not valid")
    return dtype, shape, begin, end
