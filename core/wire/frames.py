"""The two messages that carry pieces of payloads, written and read without protobuf.

Protobuf copies a piece twice on its way in and out of a message, which costs more than sending it.
On the wire there is no difference: a message with one field of bytes is the field's tag, the length
and the bytes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2 as pb

Upload: TypeAlias = Callable[..., pb.Verdict]
Download: TypeAlias = Callable[..., Any]

_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
_BYTES = 2  # the wire type of a field with a length
_LOW = 0x7F


def upload_of(channel: grpc.Channel) -> Upload:
    """Return the call `Upload` for an iterator of messages as they travel."""
    call: Upload = channel.stream_unary(
        f"/{_SERVICE}/Upload",
        request_serializer=None,
        response_deserializer=pb.Verdict.FromString,
    )
    return call


def download_of(channel: grpc.Channel) -> Download:
    """Return the call `Download`, whose iterator yields messages as they travel."""
    call: Download = channel.unary_stream(
        f"/{_SERVICE}/Download",
        request_serializer=pb.DownloadRequest.SerializeToString,
        response_deserializer=None,
    )
    return call


def upload_part(data: memoryview) -> bytes:
    """Return an `UploadPart` with a piece of a payload, copied once."""
    return b"".join((_tag(pb.UploadPart.DATA_FIELD_NUMBER), _varint(len(data)), data))


def chunk_data(message: bytes) -> memoryview | bytes:
    """Return the piece of a payload that a `Chunk` carries, not copied.

    Raises:
        ProtocolError: The message is not a `Chunk`.
    """
    length = len(message)
    for width in range(1, 5):  # of the varint
        head = _tag(pb.Chunk.DATA_FIELD_NUMBER) + _varint(max(0, length - 1 - width))
        if len(head) == 1 + width and message.startswith(head):
            return memoryview(message)[len(head) :]
    try:
        return pb.Chunk.FromString(message).data
    except DecodeError as error:
        raise ProtocolError(f"a message of {length} bytes is no piece of a payload") from error


def _tag(field: int) -> bytes:
    return bytes([field << 3 | _BYTES])


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first."""
    groups = bytearray()
    while number > _LOW:
        groups.append(number & _LOW | _LOW + 1)
        number >>= 7
    groups.append(number)
    return bytes(groups)
