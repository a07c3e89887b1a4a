"""Levels of a norm, and 8-bit integers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.messages import PARAMS
from roundel.strategies.codecs import LONG, pack_bits
from roundel.strategies.quantisation import between_levels, int8, qsgd, quantise
from tests.strategies.codecs import arrived, decoded, decoding_of, encoded, nbytes
from tests.strategies.updates import vec

vectors = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float64)
)


def grid(count: int) -> Tensor:
    """The middles of equal parts of [0, 1): summing over them is exact where p is a multiple."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


# ---- QSGD


def test_numbers_on_a_level_stay_there_whatever_is_drawn():
    # The norm of (3, -4) is 5: with 5 levels these are the third and the fourth.
    for uniforms in (vec(0, 0), vec(0.999, 0.999)):
        assert quantise(vec(3, -4), vec(5), 5, uniforms).tolist() == [3, -4]
    assert arrived(qsgd(levels=5), vec(3, -4)).tolist() == [3, -4]


def test_sign_and_level_share_few_bits():
    # Codes are level + s: 3 + 5 = 8 and -4 + 5 = 1, of 4 bits each; 8 + 16 * 1 = 24.
    sent, _ = encoded(qsgd(levels=5), {PARAMS: vec(3, -4).float()})
    assert {name: tensor.tolist() for name, tensor in sent.items()} == {
        PARAMS: [24],
        "params/norms": [5.0],
    }
    assert nbytes(sent) == 1 + 4


@pytest.mark.parametrize(
    ("levels", "bits"), [(1, 2), (3, 3), (4, 4), (7, 4), (8, 5), (127, 8), (128, 9), (32767, 16)]
)
def test_a_number_takes_as_many_bits_as_its_levels_with_both_signs(levels, bits):
    sent, _ = encoded(qsgd(levels=levels, bucket=0), {PARAMS: torch.ones(800)})
    assert nbytes(sent) == 100 * bits + 4


def test_each_bucket_has_its_norm():
    sent, _ = encoded(qsgd(levels=5, bucket=2), {PARAMS: vec(3, 4, 6, -8, 5).float()})
    assert sent["params/norms"].tolist() == [5, 10, 5]
    found = decoded(qsgd(levels=5, bucket=2), sent, decoding_of(5))
    assert found[PARAMS].tolist() == [3, 4, 6, -8, 5]


@pytest.mark.parametrize("bucket", [0, None, 3, 99])
def test_one_bucket_holds_all(bucket):
    sent, _ = encoded(qsgd(bucket=bucket), {PARAMS: vec(2, 3, 6).float()})
    assert sent["params/norms"].tolist() == [7]


def test_the_expectation_is_the_number_itself():
    # |v| s / norm = 4 * 4 / 5 = 3.2 and 3 * 4 / 5 = 2.4: multiples of 1/5.
    drawn = [quantise(vec(4, -3), vec(5), 4, u.repeat(2)) for u in grid(5)]
    assert torch.stack(drawn).sum(dim=0).tolist() == [4 * 3 + 4, -(3 * 2 + 2 * 3)]
    mean = 5 / 4 * torch.stack(drawn).mean(dim=0)
    torch.testing.assert_close(mean, vec(4, -3), rtol=0, atol=1e-15)


@given(v=vectors, levels=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_it_is_unbiased_and_its_variance_is_bounded(v: Tensor, levels: int):
    norm = v.norm()
    lower, up = between_levels(v, norm, levels)
    step = norm / levels
    torch.testing.assert_close(v.sign() * step * (lower + up), v, rtol=1e-12, atol=1e-300)
    low, high = (quantise(v, norm, levels, torch.full_like(v, u)) for u in (1.0, 0.0))
    assert bool((low.abs() <= levels).all())
    assert bool((high.abs() <= levels).all())
    # Two outcomes: (1 - p) low + p high, summed exactly.
    torch.testing.assert_close(step * ((1 - up) * low + up * high), v, rtol=1e-12, atol=1e-300)
    variance = step**2 * (up * (1 - up)).sum()
    bound = min(len(v) / levels**2, len(v) ** 0.5 / levels) * norm**2
    assert variance <= bound * (1 + 1e-12)


@given(v=vectors, seed=st.integers(0, 1000), bucket=st.integers(2, 50))
@settings(max_examples=40, deadline=None)
def test_what_arrives_is_the_formula_of_each_number(v: Tensor, seed: int, bucket: int):
    vector, levels = v.float(), 7
    found = arrived(qsgd(levels=levels, bucket=bucket), vector, seed)
    for start in range(0, len(v), bucket):
        numbers = [float(x) for x in vector[start : start + bucket]]
        norm = sum(x * x for x in numbers) ** 0.5
        for number, got in zip(numbers, found[start : start + bucket].tolist(), strict=True):
            step = norm / levels
            assert abs(got - number) <= step * (1 + 1e-6)
            assert got * number >= 0
            assert abs(got) == pytest.approx(step * round(abs(got) / step) if step else 0, rel=1e-6)


def test_norms_are_not_below_the_true_ones_so_that_no_level_is_cut_off():
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        vector = torch.randn(3, generator=generator)
        sent, _ = encoded(qsgd(bucket=0), {PARAMS: vector})
        assert float(sent["params/norms"]) >= float(vector.double().norm())


def test_zeros_arrive_as_zeros():
    assert arrived(qsgd(bucket=2), vec(0, 0, 3, 0, 0)).tolist() == [0, 0, 3, 0, 0]
    assert arrived(int8(bucket=2), vec(0, 0, 127, 0, 0)).tolist() == [0, 0, 127, 0, 0]


@pytest.mark.parametrize("part", [qsgd(), int8()], ids=lambda part: part.name)
def test_the_smallest_numbers_arrive_as_such(part):
    found = arrived(part, torch.tensor([1e-45, -1e-45, 0.0]))
    assert found.isfinite().all()
    assert float(found.abs().max()) <= 1e-42


@pytest.mark.parametrize("part", [qsgd(), int8()], ids=lambda part: part.name)
def test_seeds_and_channels_draw_on_their_own(part):
    vector = torch.linspace(-1, 1, 200)
    assert torch.equal(arrived(part, vector, seed=1), arrived(part, vector, seed=1))
    assert not torch.equal(arrived(part, vector, seed=1), arrived(part, vector, seed=2))
    sent, _ = encoded(part, {PARAMS: vector, "control": vector})
    assert not torch.equal(sent[PARAMS], sent["control"])


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        ({PARAMS: pack_bits(torch.tensor([15, 0, 0]), 4)}, "holds a level outside of 0 to 14"),
        ({"params/norms": torch.tensor([-1.0])}, "negative or not finite"),
        ({"params/norms": torch.tensor([torch.nan])}, "negative or not finite"),
        ({"params/norms": torch.tensor([torch.inf])}, "negative or not finite"),
        ({"params/norms": torch.tensor([1.0, 1.0])}, r"has the shape \(2,\)"),
        ({PARAMS: torch.zeros(3, dtype=torch.uint8)}, r"has the shape \(3,\)"),
    ],
)
def test_levels_and_norms_that_nobody_encodes_are_refused(instead, reason):
    sent, _ = encoded(qsgd(), {PARAMS: torch.ones(3)})
    with pytest.raises(ParameterError, match=reason):
        decoded(qsgd(), {**sent, **instead}, decoding_of(3))


@pytest.mark.parametrize(
    ("levels", "bucket", "is_long"),
    [
        (7, 512, True),  # the bound of the error is min(512 / 49, 22.6 / 7) = 3.2 of the length
        (127, 512, False),  # min(512 / 16129, 22.6 / 127) = 0.032
        (101, 512, True),  # min(0.0502, 0.224)
        (102, 512, False),  # min(0.0492, 0.222)
        (7, 2, False),  # min(2 / 49, 1.41 / 7) = 0.041
        (127, None, True),
        (32767, 0, True),
    ],
)
def test_codes_that_may_be_much_longer_than_what_they_stand_for_say_so(levels, bucket, is_long):
    assert (LONG in qsgd(levels=levels, bucket=bucket).provides) == is_long
    assert LONG not in int8().provides


@pytest.mark.parametrize("levels", [0, -1, 32768])
def test_levels_fill_1_to_16_bits(levels):
    with pytest.raises(CompositionError, match=f"levels = {levels} must be from 1 to 32767"):
        qsgd(levels=levels)


@pytest.mark.parametrize("make", [qsgd, int8])
@pytest.mark.parametrize("bucket", [1, -5])
def test_a_bucket_of_one_is_refused(make, bucket):
    with pytest.raises(CompositionError, match=f"bucket = {bucket} must be at least 2"):
        make(bucket=bucket)


# ---- 8-bit integers


def test_the_nearest_integer_is_sent_and_ties_go_to_the_even_one():
    part = int8(rounding="nearest", bucket=4)
    sent, _ = encoded(part, {PARAMS: vec(127, -63.5, 0, 1.25, 0, -254).float()})
    assert sent[PARAMS].tolist() == [127, -64, 0, 1, 0, -127]
    assert sent["params/scales"].tolist() == [1, 2]
    assert nbytes(sent) == 6 + 8
    assert decoded(part, sent, decoding_of(6))[PARAMS].tolist() == [127, -64, 0, 1, 0, -254]


def test_integers_drawn_at_random_have_the_number_as_their_expectation():
    # The scale is 1, so 0.25 is sent as floor(0.25 + u): 1 for a quarter of all draws. The standard
    # error of 10,000 is 0.0043.
    quarters = torch.full((10_000,), 0.25, dtype=torch.float64)
    found = arrived(int8(bucket=0), torch.cat([vec(127, 3), quarters, -quarters]))
    assert found[:2].tolist() == [127, 3]
    assert set(found[2:10_002].tolist()) == {0, 1}
    assert set(found[10_002:].tolist()) == {-1, 0}
    assert float(found[2:10_002].mean()) == pytest.approx(0.25, abs=0.02)
    assert float(found[10_002:].mean()) == pytest.approx(-0.25, abs=0.02)


@given(v=vectors, seed=st.integers(0, 1000), bucket=st.integers(2, 50))
@settings(max_examples=40, deadline=None)
def test_an_integer_is_off_by_less_than_a_scale_and_the_nearest_by_half(
    v: Tensor, seed: int, bucket: int
):
    vector = v.float()
    for part, share in ((int8(bucket=bucket), 1.0), (int8(bucket=bucket, rounding="nearest"), 0.5)):
        found = arrived(part, vector, seed)
        for start in range(0, len(v), bucket):
            one, other = vector[start : start + bucket], found[start : start + bucket]
            scale = float(one.abs().max()) / 127
            assert float((one - other).abs().max()) <= share * scale * (1 + 1e-4)


def test_an_integer_that_nobody_encodes_is_refused():
    sent, _ = encoded(int8(), {PARAMS: torch.ones(3)})
    odd = {**sent, PARAMS: torch.tensor([-128, 0, 0], dtype=torch.int8)}
    with pytest.raises(ParameterError, match="holds a level outside of -127 to 127"):
        decoded(int8(), odd, decoding_of(3))


def test_other_roundings_are_unknown():
    with pytest.raises(CompositionError, match=r"rounding = 'up' must be one of"):
        int8(rounding="up")  # type: ignore[arg-type]


def test_what_has_no_bias_says_so():
    assert "unbiased" in qsgd().traits
    assert "unbiased" in int8().traits
    assert "unbiased" not in int8(rounding="nearest").traits
