"""Bits without gaps, buckets, and what all codecs refuse from a client."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.messages import PARAMS
from roundel.core.wire.payload import pack, unpack
from roundel.strategies.cast import half
from roundel.strategies.codecs import (
    in_buckets,
    pack_bits,
    packed_size,
    rounded_up,
    unpack_bits,
)
from roundel.strategies.compose import Part, compose
from roundel.strategies.quantisation import int8, qsgd
from roundel.strategies.signsgd import signsgd
from roundel.strategies.topk import topk
from tests.strategies.codecs import arrived, decoded, decoding_of, encoded, nbytes
from tests.strategies.updates import vec

LAST = [half(), qsgd(), int8(), signsgd()]
ALL = [half(dtype="bfloat16"), *LAST, topk(), topk(error_feedback=False)]
by_name = pytest.mark.parametrize("part", ALL, ids=lambda part: part.name)


def test_bits_lie_side_by_side_from_the_lowest_of_the_first_number():
    # 5 = 101, 1 = 001, 6 = 110, from the right: 110 001 101 is 1 and 10001101 = 141.
    assert pack_bits(torch.tensor([5, 1, 6]), 3).tolist() == [141, 1]
    assert pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1]), 1).tolist() == [129, 1]
    assert pack_bits(torch.tensor([7, 255]), 8).tolist() == [7, 255]


@given(bits=st.integers(1, 16), count=st.sampled_from([1, 7, 8, 9, 32767, 32768, 32771]))
@settings(max_examples=30, deadline=None)
def test_packed_numbers_are_one_long_binary_number_and_come_back(bits: int, count: int):
    codes = torch.randint(1 << bits, (count,), generator=torch.Generator().manual_seed(count))
    data = pack_bits(codes, bits)
    written = "".join(f"{code:0{bits}b}" for code in reversed(codes.tolist()))
    size = packed_size(count, bits)
    assert data.dtype == torch.uint8
    assert bytes(data.tolist()) == int(written, 2).to_bytes(size, "little")
    assert torch.equal(unpack_bits(data, bits, count), codes.to(torch.int32))


def test_the_last_bucket_is_filled_up_with_zeros():
    assert in_buckets(vec(1, 2, 3), 2).tolist() == [[1, 2], [3, 0]]
    assert in_buckets(vec(1, 2, 3), 512).tolist() == [[1, 2, 3]]
    assert in_buckets(vec(1, 2, 3), None).tolist() == [[1, 2, 3]]


def test_numbers_are_cast_upwards():
    exact = vec(1.0, 1 + 2**-30, 0.0, 1e-60)
    assert rounded_up(exact, torch.float32).tolist() == [1.0, 1 + 2**-23, 0.0, 2**-149]
    assert rounded_up(exact, torch.float64).tolist() == exact.tolist()


# ---- all of them


@by_name
@pytest.mark.parametrize("size", [1, 2, 37, 1025])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_arrives_is_as_long_and_of_the_dtype_that_the_server_expects(part, size, dtype):
    vector = torch.linspace(-1, 2, size, dtype=dtype)
    found = arrived(part, vector)
    assert (found.shape, found.dtype) == (vector.shape, dtype)


@by_name
def test_arguments_are_not_changed_and_the_same_seed_gives_the_same_bits(part):
    vector = torch.linspace(-1, 2, 100)
    state = {"topk.params": torch.linspace(0, 1, 100)}
    before = (vector.clone(), state["topk.params"].clone())
    sent, kept = encoded(part, {PARAMS: vector}, state, seed=5)
    again, kept_again = encoded(part, {PARAMS: vector}, state, seed=5)
    assert sent.keys() == again.keys()
    assert all(torch.equal(sent[name], again[name]) for name in sent)
    assert all(torch.equal(kept[name], kept_again[name]) for name in kept)
    copies = {name: tensor.clone() for name, tensor in sent.items()}
    decoded(part, sent, decoding_of(100))
    assert all(torch.equal(sent[name], copies[name]) for name in sent)
    assert torch.equal(vector, before[0])
    assert torch.equal(state["topk.params"], before[1])


@by_name
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_client_that_has_diverged_is_told_so(part, bad):
    with pytest.raises(ParameterError) as raised:
        arrived(part, torch.tensor([1.0, bad]))
    assert str(raised.value) == (
        "channel 'params' holds values that are not finite; the client has probably diverged, "
        "lower its learning rate"
    )


@by_name
def test_everything_that_is_sent_can_travel(part):
    sent, _ = encoded(part, {PARAMS: torch.linspace(-1, 2, 999)})
    there = unpack(bytearray(pack(sent).data))
    for name, tensor in sent.items():
        assert torch.equal(there[name], tensor)


@by_name
def test_what_a_client_leaves_out_or_makes_up_is_refused(part):
    sent, _ = encoded(part, {PARAMS: torch.linspace(-1, 2, 100)})
    for name, tensor in sent.items():
        for instead in (
            tensor[:-1],
            torch.cat([tensor, tensor]),
            tensor.unsqueeze(0),
            torch.zeros(()),
            tensor.to(torch.int64),
        ):
            with pytest.raises(ParameterError):
                decoded(part, {**sent, name: instead}, decoding_of(100))
        if name != PARAMS:
            rest = {other: value for other, value in sent.items() if other != name}
            with pytest.raises(ParameterError):
                decoded(part, rest, decoding_of(100))


@pytest.mark.parametrize("part", [half(), qsgd(), int8(), topk()], ids=lambda part: part.name)
def test_a_channel_that_the_strategy_does_not_have_is_refused(part):
    sent, _ = encoded(part, {"other": torch.ones(4)})
    with pytest.raises(ParameterError, match="has no channel 'other'"):
        decoded(part, sent, decoding_of(4))


@pytest.mark.parametrize("part", LAST, ids=lambda part: part.name)
@pytest.mark.parametrize("places", [torch.zeros(0), torch.zeros(9), torch.zeros(2, 2)])
def test_places_without_sparsity_do_not_decide_how_much_is_allocated(part, places):
    sent, _ = encoded(part, {PARAMS: torch.ones(8)})
    with pytest.raises(ParameterError, match="'params/places' has the shape"):
        decoded(part, {**sent, "params/places": places.int()}, decoding_of(8))


@pytest.mark.parametrize("part", LAST, ids=lambda part: part.name)
def test_they_come_after_the_choice_of_what_to_send(part: Part):
    # Of 40 numbers the 4 largest are the last; only they are sent, in fewer bits.
    vector = torch.cat([torch.full((36,), 1e-3), vec(-2.0, 2.0, -2.0, 2.0).float()])
    chain = compose(topk(share=0.1), part)
    sent, _ = encoded(chain, {PARAMS: vector})
    assert sent["params/places"].tolist() == [36, 37, 38, 39]
    found = decoded(chain, sent, decoding_of(40))
    assert found.keys() == {PARAMS}
    assert found[PARAMS][:36].tolist() == [0.0] * 36
    assert all(found[PARAMS][36:].sign() * vector[36:].sign() >= 0)
    assert found[PARAMS].dtype == torch.float32


@pytest.mark.parametrize(("one", "other"), list(product(LAST, LAST)), ids=lambda part: part.name)
def test_nothing_computes_with_what_is_no_plain_number_any_more(one: Part, other: Part):
    with pytest.raises(CompositionError, match="cannot come after"):
        compose(one, other)


@pytest.mark.parametrize("part", LAST, ids=lambda part: part.name)
def test_the_largest_are_not_chosen_after_it(part: Part):
    with pytest.raises(CompositionError, match="cannot come after"):
        compose(part, topk())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_chain_sends_more_than_twice_the_bytes_that_a_coordinator_lets_through(dtype):
    vector = torch.linspace(-1, 2, 1000, dtype=dtype)
    widest = [qsgd(levels=32767, bucket=2), int8(bucket=2), half(), signsgd()]
    for part in widest:
        sent, _ = encoded(compose(topk(share=1.0), part), {PARAMS: vector})
        assert nbytes(sent) <= 2 * vector.nbytes
