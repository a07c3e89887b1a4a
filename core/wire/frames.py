"""The two messages that carry pieces of payloads, written and read without protobuf.

Protobuf copies a piece twice on its way in and out of a message, which costs more than sending it.
On the wire there is no difference: a message with one field of bytes is the field's tag, the length
and the bytes.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2 as pb

Upload: TypeAlias = Callable[..., pb.Verdict]
Download: TypeAlias = Callable[..., Any]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
_UPLOAD, _DOWNLOAD = f"/{_SERVICE}/Upload", f"/{_SERVICE}/Download"
_BYTES = 2  # the wire type of a field with a length
_LOW = 0x7F


def upload_of(channel: grpc.Channel) -> Upload:
    """Return the call `Upload` for an iterator of messages as they travel."""
    call: Upload = channel.stream_unary(
        _UPLOAD,
        request_serializer=None,
        response_deserializer=pb.Verdict.FromString,
    )
    return call


def download_of(channel: grpc.Channel) -> Download:
    """Return the call `Download`, whose iterator yields messages as they travel."""
    call: Download = channel.unary_stream(
        _DOWNLOAD,
        request_serializer=pb.DownloadRequest.SerializeToString,
        response_deserializer=None,
    )
    return call


def framed(handler: Handler, method: str) -> Handler:
    """Return what serves a call, so that protobuf neither reads nor writes pieces of payloads.

    Args:
        handler: The call's own; it gets what `read_upload_part` returns, and yields what `chunk`
            does.
        method: The call's full name; those without payloads stay as they are.
    """
    own: Any = handler  # its type knows no coroutines
    served = handler
    if method == _UPLOAD:
        served = grpc.stream_unary_rpc_method_handler(
            own.stream_unary, read_upload_part, own.response_serializer
        )
    elif method == _DOWNLOAD:
        served = grpc.unary_stream_rpc_method_handler(
            own.unary_stream, own.request_deserializer, None
        )
    return served


def upload_part(data: memoryview) -> bytes:
    """Return an `UploadPart` with a piece of a payload, copied once."""
    return _message(pb.UploadPart.DATA_FIELD_NUMBER, [data])


def chunk(data: Sequence[memoryview]) -> bytes:
    """Return a `Chunk` with a piece of a payload, which may lie in several places; copied once."""
    return _message(pb.Chunk.DATA_FIELD_NUMBER, data)


def read_upload_part(message: bytes) -> memoryview | pb.UploadPart:
    """Return the piece of a payload that an `UploadPart` carries, not copied, or the header.

    Raises:
        DecodeError: The message is no `UploadPart`.
    """
    data = _data(message, pb.UploadPart.DATA_FIELD_NUMBER)
    if data is not None:
        return data
    part = pb.UploadPart.FromString(message)
    return memoryview(part.data) if part.WhichOneof("part") == "data" else part


def chunk_data(message: bytes) -> memoryview:
    """Return the piece of a payload that a `Chunk` carries, not copied.

    Raises:
        ProtocolError: The message is not a `Chunk`.
    """
    data = _data(message, pb.Chunk.DATA_FIELD_NUMBER)
    if data is not None:
        return data
    try:
        return memoryview(pb.Chunk.FromString(message).data)
    except DecodeError as error:
        raise ProtocolError(
            f"a message of {len(message)} bytes is no piece of a payload"
        ) from error


def _message(field: int, data: Sequence[memoryview]) -> bytes:
    """Return a message whose one field holds bytes."""
    return b"".join((_tag(field), _varint(sum(map(len, data))), *data))


def _data(message: bytes, field: int) -> memoryview | None:
    """Return the bytes of a message that has this field alone, or None if it may be another one."""
    length = len(message)
    for width in range(1, 5):  # of the varint
        head = _tag(field) + _varint(max(0, length - 1 - width))
        if len(head) == 1 + width and message.startswith(head):
            return memoryview(message)[len(head) :]
    return None


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
