"""Sixteen bits a number."""

import pytest
import torch

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.messages import PARAMS
from roundel.strategies.cast import half
from tests.strategies.codecs import arrived, decoded, decoding_of, encoded, nbytes
from tests.strategies.updates import vec


def test_float16_keeps_eleven_digits_and_rounds_ties_to_even():
    vector = vec(1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, -0.1)
    assert arrived(half(), vector).tolist() == [
        1 + 2**-10,
        1,
        1 + 2**-9,
        1 + 2**-10,
        -0.0999755859375,
    ]


def test_bfloat16_keeps_eight_digits():
    vector = vec(1 + 2**-7, 1 + 2**-8, 1 + 3 * 2**-8, -(2.0**100))
    found = arrived(half(dtype="bfloat16"), vector)
    assert found.tolist() == [1 + 2**-7, 1, 1 + 2**-6, -(2.0**100)]


def test_what_is_too_small_for_float16_becomes_0():
    assert arrived(half(), vec(2**-24, 2**-25, 1.5 * 2**-25)).tolist() == [2**-24, 0, 2**-24]


def test_the_largest_float16_is_sent_and_what_lies_above_fails_with_the_remedy():
    assert arrived(half(), vec(65504, 65519)).tolist() == [65504, 65504]
    with pytest.raises(ParameterError) as raised:
        arrived(half(), vec(1, -65520))
    assert str(raised.value) == (
        "channel 'params' holds 6.55e+04, and the largest float16 is 65504; use dtype = "
        "'bfloat16', or look into why the update is so large"
    )
    assert arrived(half(dtype="bfloat16"), vec(65536, 1e30)).tolist()[0] == 65536


def test_every_channel_takes_2_bytes_a_number():
    sent, kept = encoded(half(), {PARAMS: torch.ones(5), "control": torch.zeros(5)})
    assert nbytes(sent) == 20
    assert kept == {}
    found = decoded(half(), sent, decoding_of(5, PARAMS, "control"))
    assert {name: v.tolist() for name, v in found.items()} == {
        PARAMS: [1.0] * 5,
        "control": [0.0] * 5,
    }


def test_a_stack_of_vectors_is_cast_like_each():
    (codec,) = half().codecs
    rows = torch.linspace(-1, 1, 12).view(3, 4)
    context = None  # it looks at nothing but the numbers
    stacked, _ = codec.encode({PARAMS: rows}, context, 0)  # type: ignore[arg-type]
    for row, one in zip(rows, stacked[PARAMS], strict=True):
        assert torch.equal(encoded(half(), {PARAMS: row})[0][PARAMS], one)


def test_the_other_sixteen_bits_are_refused():
    sent, _ = encoded(half(dtype="bfloat16"), {PARAMS: torch.ones(3)})
    with pytest.raises(ParameterError) as raised:
        decoded(half(), sent, decoding_of(3))
    assert str(raised.value) == (
        "'params' has the shape (3,) and the dtype torch.bfloat16, not (3,) and torch.float16"
    )


def test_other_dtypes_are_unknown():
    with pytest.raises(CompositionError, match=r"dtype = 'float8' must be one of"):
        half(dtype="float8")  # type: ignore[arg-type]
