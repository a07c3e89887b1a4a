"""Tensors as bytes: what is packed comes back bit for bit, and bad bytes do no harm."""

import json
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from roundel.core.errors import ProtocolError
from roundel.core.wire import payload
from roundel.core.wire.limits import CHUNK
from roundel.core.wire.payload import MAX_HEADER, Packed, Receiver, digest_of, pack, unpack

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
shapes = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any dtype and shape, empty and 0-dimensional ones included, of any bits."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(shapes)
    count = int(torch.Size(shape).numel()) * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=count, max_size=count)))
    if dtype is torch.bool:
        data = bytearray(byte & 1 for byte in data)
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(shape)


named = st.dictionaries(st.text(max_size=12), tensors(), max_size=5)


def bits(values: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, list[int], bytes]]:
    return {
        name: (t.dtype, list(t.shape), t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, t in values.items()
    }


def made(header: object, body: bytes = b"") -> bytearray:
    """A payload of this header, padded so that tensors are aligned, or of these very bytes."""
    if isinstance(header, bytes):
        text = header
    else:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text + body)


def entry(dtype="F32", shape=(1,), begin=0, end=4) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@given(named)
@settings(max_examples=80, deadline=None)
def test_what_is_packed_is_unpacked_bit_for_bit(values):
    packed = pack(values)
    assert bits(unpack(bytearray(packed.data))) == bits(values)
    assert packed.digest == blake3(packed.data).digest()


@given(named)
@settings(max_examples=50, deadline=None)
def test_every_tensor_is_aligned_to_its_dtype(values):
    for tensor in unpack(bytearray(pack(values).data)).values():
        assert tensor.numel() == 0 or tensor.data_ptr() % tensor.itemsize == 0


@given(named.filter(lambda values: "__metadata__" not in values))
@settings(max_examples=50, deadline=None)
def test_the_format_is_that_of_safetensors(values):
    assert bits(load(pack(values).data)) == bits(values)


def test_what_safetensors_writes_can_be_read():
    values = {"a": torch.arange(3), "b": torch.tensor([1.5, -0.0])}
    assert bits(unpack(bytearray(save(values)))) == bits(values)


def test_strided_tensors_are_packed_in_their_logical_order():
    values = {"t": torch.arange(6.0).view(2, 3).T}
    (tensor,) = unpack(bytearray(pack(values).data)).values()
    assert tensor.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_unpacked_tensors_share_the_buffer():
    data = bytearray(pack({"x": torch.zeros(2)}).data)
    unpack(data)["x"][1] = 1.0
    assert data[-4:] == b"\x00\x00\x80\x3f"


def test_a_dtype_that_cannot_travel_is_named():
    with pytest.raises(ProtocolError) as caught:
        pack({"spectrum": torch.zeros(1, dtype=torch.complex64)})
    assert str(caught.value) == "tensor 'spectrum' of dtype torch.complex64 cannot be sent"


def test_more_names_than_a_receiver_would_read_are_not_sent():
    with pytest.raises(ProtocolError) as caught:
        pack({f"tensor-{i:04d}": torch.zeros(0) for i in range(2000)})
    assert str(caught.value) == f"2000 tensors have a header of more than {MAX_HEADER} bytes"


# ---- chunks


def test_chunks_are_the_payload_from_any_offset(monkeypatch):
    monkeypatch.setattr(payload, "CHUNK", 10)
    packed = Packed((memoryview(bytes(range(9))), memoryview(bytes(range(9, 25)))), b"")
    assert [len(chunk) for chunk in packed.chunks()] == [10, 10, 5]
    assert b"".join(packed.chunks()) == packed.data
    assert b"".join(packed.chunks(7)) == packed.data[7:]
    assert list(packed.chunks(25)) == list(packed.chunks(99)) == []


def test_a_chunk_is_one_mebibyte():
    assert CHUNK == 1 << 20


# ---- bad bytes

MALFORMED = {
    "nothing": (b"", "a payload of 0 bytes has no whole header"),
    "seven bytes": (b"\x00" * 7, "a payload of 7 bytes has no whole header"),
    "a header past the end": (
        b"\xff" * 8 + b"{}",
        "a payload of 10 bytes has no whole header",
    ),
    "a header that is cut off": (made({"x": entry()})[:-1], "a payload of"),
    "a header too long to be read": (
        made(b" " * (MAX_HEADER + 1)),
        f"a payload of {MAX_HEADER + 9} bytes has no whole header",
    ),
    "no header at all": (made(b""), "a payload's header is not JSON"),
    "a header that is not JSON": (made(b"{x"), "a payload's header is not JSON"),
    "a header that is not text": (made(b"\xff\xfe\xfd"), "a payload's header is not JSON"),
    "a header nested without end": (made(b"[" * 60_000), "a payload's header is not JSON"),
    "a number too long to read": (made(b"9" * 60_000), "a payload's header is not JSON"),
    "a list for a header": (made([]), "a payload's header is not an object"),
    "a number for an entry": (
        made({"x": 1}),
        "the header's entry for tensor 'x' is not valid",
    ),
    "text for an entry": (made({"x": "F32"}), "the header's entry for tensor 'x' is not valid"),
    "metadata": (
        made({"__metadata__": {"a": "b"}}),
        "the header's entry for tensor '__metadata__' is not valid",
    ),
    "a dtype that does not exist": (
        made({"x": entry(dtype="F31")}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "a dtype that is a list": (
        made({"x": {**entry(), "dtype": []}}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "a negative shape": (
        made({"x": entry(shape=(-1, -1))}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "a shape of fractions": (
        made({"x": entry(shape=(1.0,))}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "a shape of truth values": (
        made({"x": entry(shape=(True,))}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "a shape that is text": (
        made({"x": {**entry(), "shape": "1"}}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "too many axes": (
        made({"x": entry(shape=(1,) * 9)}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "an axis too long": (
        made({"x": entry(shape=(1 << 48, 0), end=0)}),
        "the header's entry for tensor 'x' is not valid",
    ),
    "axes too long together, beside one without any length": (
        made({"x": entry(shape=((1 << 47), (1 << 47), 0), end=0)}),
        "the header's entry for tensor 'x' is not valid",
    ),
    "three offsets": (
        made({"x": {**entry(), "data_offsets": [0, 4, 4]}}, b"0000"),
        "the header's entry for tensor 'x' is not valid",
    ),
    "an end before its beginning": (
        made({"x": entry(begin=4, end=0)}, b"0000"),
        "the extent of tensor 'x' contradicts its shape or the data",
    ),
    "a shape that asks for more than there is": (
        made({"x": entry(shape=(1 << 40,), end=1 << 42)}, b"0000"),
        "the extent of tensor 'x' contradicts its shape or the data",
    ),
    "a shape that contradicts its extent": (
        made({"x": entry(shape=(2,))}, b"0000"),
        "the extent of tensor 'x' contradicts its shape or the data",
    ),
    "a gap": (
        made({"x": entry(), "y": entry(begin=8, end=12)}, b"0" * 12),
        "the extent of tensor 'y' contradicts its shape or the data",
    ),
    "an overlap": (
        made({"x": entry(), "y": entry(begin=0, end=4)}, b"0" * 8),
        "the extent of tensor 'y' contradicts its shape or the data",
    ),
    "bytes that nobody claims": (
        made({"x": entry()}, b"0" * 7),
        "a payload has 3 bytes that no tensor claims",
    ),
    "a truth value of two": (
        made({"x": entry("BOOL", shape=(2,), end=2)}, b"\x01\x02"),
        "tensor 'x' of dtype torch.bool holds more than 0 and 1",
    ),
    "a name that fills a log": (
        made({"x" * 5000: entry(begin=1)}),
        f"the extent of tensor '{'x' * 99} contradicts its shape or the data",
    ),
    "a float at an odd place": (
        made({"x": entry("U8", end=1), "y": entry(begin=1, end=5)}, b"00000"),
        "tensor 'y' is not aligned to its dtype torch.float32",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), MALFORMED.values(), ids=MALFORMED)
def test_a_payload_that_is_none_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(ProtocolError) as caught:
        unpack(bytearray(data))
    assert str(caught.value).startswith(sentence)


GOOD = pack(
    {
        "params": torch.arange(5.0),
        "integers": torch.arange(2),
        "mask": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 3),
        "number": torch.tensor(1.5, dtype=torch.bfloat16),
    }
).data


def only_a_protocol_error(data: bytearray) -> None:
    with suppress(ProtocolError):
        unpack(data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_payloads_raise_nothing_but_a_protocol_error(data):
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if kind == "flip" and mutated:
            mutated[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del mutated[place : place + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            mutated[place:place] = data.draw(st.binary(max_size=9))
        else:
            mutated[place:place] = mutated[place : place + 20]
    only_a_protocol_error(mutated)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4)
    ),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I64", "U8", "BOOL", "BF16"]) | json_values,
        "shape": st.lists(st.integers(0, 3) | st.sampled_from([2**47, 2**62])) | json_values,
        "data_offsets": st.lists(st.integers(0, 24), min_size=2, max_size=2) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=5), entries | json_values, max_size=4), st.binary())
@settings(max_examples=150, deadline=None)
def test_invented_headers_raise_nothing_but_a_protocol_error(header, body):
    only_a_protocol_error(made(header, body))


@given(st.binary(max_size=64))
@settings(max_examples=200, deadline=None)
def test_noise_raises_nothing_but_a_protocol_error(data):
    only_a_protocol_error(bytearray(data))


@pytest.mark.parametrize(
    "name",
    [
        "a shape that asks for more than there is",
        "an axis too long",
        "a header past the end",
        "a gap",
    ],
)
def test_a_lie_about_sizes_allocates_nothing(name):
    data = bytearray(MALFORMED[name][0])
    tracemalloc.start()
    try:
        only_a_protocol_error(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


# ---- receiving


def receiver(data: bytes, **changes) -> Receiver:
    announced = {"size": len(data), "digest": digest_of(data), "limit": 1000}
    return Receiver(**{**announced, **changes})


def test_chunks_of_any_length_make_up_the_payload():
    data = bytes(range(100))
    receiving = receiver(data)
    for chunk in (data[:1], b"", data[1:70], data[70:]):
        receiving.take(chunk)
    assert receiving.finish() == data


@pytest.mark.parametrize("size", [0, 7, 1001, 2**63])
def test_a_size_out_of_bounds_is_refused_before_anything_is_allocated(size):
    with pytest.raises(ProtocolError) as caught:
        receiver(b"", size=size)
    assert str(caught.value) == f"a payload of {size} bytes is not between 8 and 1000 bytes"


def test_more_than_was_announced_is_refused_at_once():
    receiving = receiver(b"x" * 10)
    receiving.take(b"x" * 9)
    with pytest.raises(ProtocolError, match=r"^more than the announced 10 bytes arrived$"):
        receiving.take(b"xx")


def test_less_than_was_announced_is_refused_at_the_end():
    receiving = receiver(b"x" * 10)
    receiving.take(b"x" * 9)
    with pytest.raises(ProtocolError, match=r"^9 of 10 announced bytes arrived$"):
        receiving.finish()


def test_other_bytes_than_announced_are_refused():
    receiving = receiver(b"x" * 10)
    receiving.take(b"x" * 9 + b"y")
    with pytest.raises(ProtocolError, match="digest differs from the announced one"):
        receiving.finish()
