"""Messages with pieces of payloads, written and read by hand."""

import pytest
from google.protobuf.message import DecodeError

from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.frames import chunk, chunk_data, read_upload_part, upload_part

SIZES = [0, 1, 127, 128, 16_383, 16_384, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_a_part_is_what_protobuf_would_write(size):
    data = bytes(range(256)) * (size // 256 + 1)
    written = upload_part(memoryview(data)[:size])
    assert pb.UploadPart.FromString(written) == pb.UploadPart(data=data[:size])
    assert written == pb.UploadPart(data=data[:size]).SerializeToString()


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_is_what_protobuf_would_write_wherever_its_data_lie(size):
    data = memoryview(bytes(range(256)) * (size // 256 + 1))[:size]
    written = chunk([data[:100], data[100:]])
    assert pb.Chunk.FromString(written) == pb.Chunk(data=bytes(data))


@pytest.mark.parametrize("size", SIZES)
def test_a_part_is_read_as_protobuf_would(size):
    data = bytes(range(256)) * (size // 256 + 1)
    part = read_upload_part(pb.UploadPart(data=data[:size]).SerializeToString())
    assert isinstance(part, memoryview)
    assert part == data[:size]


def test_a_header_is_read_by_protobuf():
    header = pb.UploadPart(header=pb.UpdateHeader(session="abc"))
    assert read_upload_part(header.SerializeToString()) == header
    assert read_upload_part(b"") == pb.UploadPart()


def test_of_a_part_with_several_fields_the_last_one_counts():
    header = pb.UploadPart(header=pb.UpdateHeader(session="abc"))
    data = pb.UploadPart(data=b"abc").SerializeToString()
    assert read_upload_part(data + header.SerializeToString()) == header
    assert read_upload_part(header.SerializeToString() + data) == b"abc"


def test_what_is_no_part_is_refused():
    with pytest.raises(DecodeError):
        read_upload_part(b"\x12\x05abc")


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
