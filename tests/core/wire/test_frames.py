"""Messages with pieces of payloads, written and read by hand."""

import pytest

from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.frames import chunk_data, upload_part

SIZES = [0, 1, 127, 128, 16_383, 16_384, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_a_part_is_what_protobuf_would_write(size):
    data = bytes(range(256)) * (size // 256 + 1)
    written = upload_part(memoryview(data)[:size])
    assert pb.UploadPart.FromString(written) == pb.UploadPart(data=data[:size])
    assert written == pb.UploadPart(data=data[:size]).SerializeToString()


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_is_read_as_protobuf_would(size):
    data = bytes(range(256)) * (size // 256 + 1)
    message = pb.Chunk(data=data[:size]).SerializeToString()
    assert bytes(chunk_data(message)) == data[:size]


def test_a_large_chunk_is_not_copied():
    message = pb.Chunk(data=bytes(1000)).SerializeToString()
    found = chunk_data(message)
    assert isinstance(found, memoryview)
    assert found.obj is message


@pytest.mark.parametrize(
    "message",
    [
        # A field that a later version has added, before or behind; the length in a longer form.
        b"\x0a\x03abc\x10\x07",
        b"\x10\x07\x0a\x03abc",
        b"\x0a\x83\x00abc",
        # The same field twice: the last one counts.
        b"\x0a\x01x\x0a\x03abc",
    ],
)
def test_whatever_else_means_the_same_is_left_to_protobuf(message):
    assert chunk_data(message) == b"abc"


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x0a", b"\xff\xff\xff"])
def test_what_is_no_chunk_is_refused(message):
    with pytest.raises(ProtocolError, match="is no piece of a payload"):
        chunk_data(message)
