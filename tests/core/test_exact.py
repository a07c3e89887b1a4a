"""Exact sums: literals, limits and refusals. The laws are in `tests/properties/test_exact.py`."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from roundel.core import exact
from roundel.core.errors import ParameterError
from roundel.core.exact import MAX_SUM, MAX_TERM, MAX_TERMS, ExactSum, term_limit

TILE = exact._TILE


def summed(*terms: float) -> ExactSum:
    """Sum numbers as vectors of one coordinate."""
    total = ExactSum.zero(1)
    for term in terms:
        total.add_(torch.tensor([term], dtype=torch.float64))
    return total


def kept(total: ExactSum) -> Fraction:
    """What a sum of one coordinate holds, before it is rounded."""
    coarse = 0.0 if total.coarse is None else total.coarse.item()
    return Fraction(int(total.fine.item()), 2**50) + Fraction(coarse)


def test_a_sum_that_plain_addition_gets_wrong_is_right() -> None:
    # In float64, (2**34 + 2**-30) - 2**34 is 0.
    assert summed(2.0**34, 2.0**-30, -(2.0**34)).total().tolist() == [2.0**-30]


def test_weights_multiply_in_float64() -> None:
    total = ExactSum.zero(2)
    total.add_(torch.tensor([1.0, 2.0]), weight=3)
    total.add_(torch.tensor([-0.5, 4.0]), weight=0.5)
    total.add_(torch.tensor([8.0, 8.0]), weight=-0.125)
    assert total.total().tolist() == [1.75, 7.0]
    assert total.terms == 3


def test_a_term_is_cut_at_two_to_the_minus_50() -> None:
    assert summed(3 + 5 * 2.0**-16 + 7 * 2.0**-50).fine.tolist() == [3 * 2**50 + 5 * 2**34 + 7]
    assert summed(0.4 * 2.0**-50).total().tolist() == [0.0]
    assert summed(0.6 * 2.0**-50).total().tolist() == [2.0**-50]
    assert summed(1.5 * 2.0**-50).fine.tolist() == summed(2.5 * 2.0**-50).fine.tolist() == [2]


def test_a_term_that_reaches_too_far_is_split_at_two_to_the_minus_16() -> None:
    total = summed(2.0**12 + 3 + 5 * 2.0**-16 - 7 * 2.0**-40)
    assert total.coarse is not None
    assert total.coarse.tolist() == [2.0**12 + 3 + 5 * 2.0**-16]
    assert total.fine.tolist() == [-7 * 2**10]


def test_what_is_coarse_is_carried_when_the_sum_may_reach_too_far() -> None:
    total = summed(4095.0)
    assert total.coarse is None
    total.add_(torch.tensor([3 - 2.0**-50], dtype=torch.float64))
    assert total.coarse is not None
    assert total.coarse.tolist() == [4095.0]
    assert total.fine.tolist() == [3 * 2**50 - 1]
    total.carry_()
    assert total.coarse.tolist() == [4098.0 - 2.0**-16]
    assert total.fine.tolist() == [2**34 - 1]


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("size", [1.5, 1000.25, 2.0**11, 2.0**12 + 0.5, 2.0**30])
def test_rows_that_reach_too_far_together_are_summed(size: float, count: int) -> None:
    rows = torch.tensor([[size * (-1) ** i / (1 + i)] for i in range(count)], dtype=torch.float64)
    together, alone = ExactSum.zero(1), summed(*rows.flatten().tolist())
    together.add_rows_(rows, [1.0] * count)
    assert kept(together) == kept(alone)
    assert together.terms == count


def test_the_second_bin_comes_when_it_is_needed_and_changes_no_bit() -> None:
    below, above = math.nextafter(2.0**11, 0), 2.0**-30 + 2.0**11
    for terms in [
        (below, below),
        (below, above),
        (-below, -above, 3 * 2.0**-50),
        (below, 2.0**34, -below),
    ]:
        late = summed(*terms)
        early = summed(2.0**35, *terms, -(2.0**35))
        assert (late.coarse is None) == (sum(map(abs, terms)) < 2.0**12)
        assert early.coarse is not None
        assert kept(late) == kept(early) == sum(map(Fraction, terms))
        assert late.total().item() == early.total().item() == math.fsum(terms)


@pytest.mark.parametrize("parts", [(3.5, 2.0**20), (2.0**20, 3.5), (4e3, 4e3), (2.0**20, 2.0**21)])
def test_merging_finds_room_for_both(parts: tuple[float, float]) -> None:
    one, two = map(summed, parts)
    merged = one + two
    assert merged.coarse is not None
    assert kept(merged) == sum(map(Fraction, parts))
    assert (kept(one), kept(two)) == tuple(map(Fraction, parts))
    merged.add_(torch.tensor([0.1], dtype=torch.float64))
    assert merged.total().item() == summed(*parts, 0.1).total().item()


def test_the_empty_sum_is_zero() -> None:
    assert ExactSum.zero(3).total().tolist() == [0.0, 0.0, 0.0]
    assert ExactSum.zero(3).terms == 0


def test_merging_adds_sums_and_terms_and_changes_neither() -> None:
    one, two = summed(1.0), summed(2.0, 4.0)
    merged = one + two
    assert (merged.total().item(), merged.terms) == (7.0, 3)
    assert (one.total().item(), two.total().item()) == (1.0, 6.0)


def test_sums_of_different_lengths_do_not_merge() -> None:
    with pytest.raises(ParameterError, match=r"shapes \(1,\) and \(3,\) cannot be merged"):
        _ = ExactSum.zero(1) + ExactSum.zero(3)


def test_total_divides_before_it_rounds_to_the_dtype() -> None:
    third = summed(10.0).total(3.0, torch.float32)
    assert third.dtype == torch.float32
    assert third.item() == torch.tensor(10.0 / 3.0, dtype=torch.float32).item()
    # 2**24 + 1 is no float32; its half is rounded once, to even.
    assert summed(2.0**24, 1.0).total(1.0, torch.float32).item() == 2.0**24
    assert summed(2.0**24, 1.0).total(0.5, torch.float64).item() == 2.0**25 + 2


def test_total_leaves_the_sum_as_it_was() -> None:
    total = summed(1.0, 2.0)
    total.total(4.0)
    assert total.total().tolist() == [3.0]


@pytest.mark.parametrize("size", [0, 1, TILE - 1, TILE, TILE + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_coordinate_is_summed_whatever_the_size(size: int, dtype: torch.dtype) -> None:
    vector = torch.arange(size, dtype=dtype)
    total = ExactSum.zero(size)
    total.add_(vector, weight=0.25)
    total.add_(vector.flip(0), weight=0.5)
    expected = 0.25 * vector.double() + 0.5 * vector.double().flip(0)
    assert torch.equal(total.total(), expected)
    assert torch.equal((total + total).total(2.0), expected)


@pytest.mark.parametrize("place", [0, TILE - 1, TILE])
def test_a_refused_vector_changes_nothing_wherever_the_bad_number_is(place: int) -> None:
    total = ExactSum.zero(TILE + 1)
    total.add_(torch.ones(TILE + 1))
    bad = torch.ones(TILE + 1)
    bad[place] = float("nan")
    with pytest.raises(ParameterError, match="a term of nan is outside the exact range"):
        total.add_(bad)
    assert torch.equal(total.total(), torch.ones(TILE + 1, dtype=torch.float64))
    assert total.terms == 1


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("size", [0, 1, 3, TILE // 2, TILE - 1, TILE, TILE + 1])
def test_every_coordinate_of_every_row_is_summed(size: int, count: int) -> None:
    rows = torch.arange(size * count, dtype=torch.float32).view(count, size)
    weights = [0.25, 0.5, -1.0, 2.0, 3.0][:count]
    total = ExactSum.zero(size)
    total.add_rows_(rows, weights)
    expected = (rows.double() * torch.tensor(weights).unsqueeze(1)).sum(0)  # of quarters: exact
    assert torch.equal(total.total(), expected)
    assert total.terms == count


@pytest.mark.parametrize("size", [1000, 1001, 4096, 9999])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_many_numbers_in_threads_are_summed_as_in_one(size, threads, scale, monkeypatch) -> None:
    rows = scale * torch.randn(3, size)
    whole = ExactSum.zero(size)
    whole.add_rows_(rows, [3.0, 0.1, -2.0])
    monkeypatch.setattr(exact, "_TILE", 64)
    monkeypatch.setattr(exact, "_LONG", 128)
    monkeypatch.setattr(exact, "_THREADS", threads)
    shared = ExactSum.zero(size)
    shared.add_rows_(rows, [3.0, 0.1, -2.0])
    assert len(shared.bins) == len(whole.bins) == 1 + (scale > 1)
    assert all(map(torch.equal, shared.bins, whole.bins))
    assert torch.equal(shared.total(3.0), whole.total(3.0))


def test_a_thread_that_finds_a_sum_out_of_range_is_heard(monkeypatch) -> None:
    monkeypatch.setattr(exact, "_LONG", 10)
    total = ExactSum.zero(1000)
    total.carry_()
    assert total.coarse is not None
    total.coarse[999] = MAX_SUM
    with pytest.raises(ParameterError, match="no longer exact"):
        total.total()


def test_a_refused_row_keeps_all_of_them_out() -> None:
    total = summed(1.0)
    with pytest.raises(ParameterError, match=r"a term of 6\.87e\+10 is outside the exact range"):
        total.add_rows_(torch.tensor([[1.0], [MAX_TERM]]), [1.0, 2.0])
    with pytest.raises(ParameterError, match="a term of nan is outside the exact range"):
        total.add_rows_(torch.tensor([[math.nan], [1.0]]), [1.0, 1.0])
    assert (total.total().item(), total.terms) == (1.0, 1)


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"shape \(2,\) cannot be added to a sum of shape"):
        summed(1.0).add_rows_(torch.zeros(3, 2), [1.0] * 3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_term_is_accepted_and_exact(sign: float) -> None:
    assert summed(sign * MAX_TERM).total().tolist() == [sign * MAX_TERM]
    below = sign * math.nextafter(MAX_TERM, 0)
    total = summed(below)
    assert kept(total) == Fraction(below)


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        (math.nextafter(MAX_TERM, math.inf), 1.0),
        (-math.nextafter(MAX_TERM, math.inf), 1.0),
        (1.0, math.nextafter(MAX_TERM, math.inf)),
        (2.0**20, 2.0**16),
        (2.0**20, -(2.0**16)),
        (math.inf, 1.0),
        (-math.inf, 1.0),
        (math.nan, 1.0),
        (1.0, math.nan),
        (1.0, math.inf),
        (0.0, math.inf),
        (math.inf, 0.0),
    ],
)
def test_a_term_out_of_range_or_not_finite_is_refused(value: float, weight: float) -> None:
    total = summed(1.0)
    with pytest.raises(ParameterError, match=r"outside the exact range of 3\.44e\+10"):
        total.add_(torch.tensor([value], dtype=torch.float64), weight)
    assert (total.total().item(), total.terms) == (1.0, 1)


@pytest.mark.parametrize("vector", [torch.zeros(2), torch.zeros(()), torch.zeros(1, 1)])
def test_a_vector_of_another_shape_is_refused(vector: Tensor) -> None:
    with pytest.raises(ParameterError, match=r"cannot be added to a sum of shape \(1,\)"):
        summed(1.0).add_(vector)


def test_a_sum_that_left_the_exact_range_is_refused() -> None:
    assert summed(*[MAX_TERM] * 3).total().item() == 3 * MAX_TERM
    with pytest.raises(ParameterError, match=r"a sum reached 1\.37e\+11"):
        summed(*[MAX_TERM] * 4).total()
    with pytest.raises(ParameterError, match="a sum reached"):
        summed(*[-MAX_TERM] * 4).total()


def test_more_terms_than_stay_exact_are_refused() -> None:
    total = ExactSum.zero(1)
    total.terms = MAX_TERMS
    total.total()
    with pytest.raises(ParameterError, match="a sum of 1048577 terms is not exact"):
        (total + summed(1.0)).total()


@pytest.mark.parametrize(
    ("terms", "limit"),
    [(1, 2.0**35), (2, 2.0**35), (3, 2.0**36 / 3), (4, 2.0**34), (MAX_TERMS, 2.0**16)],
)
def test_the_limit_of_a_term_shrinks_with_their_number(terms: int, limit: float) -> None:
    assert term_limit(terms) == limit


@pytest.mark.parametrize("terms", [0, -1, MAX_TERMS + 1])
def test_a_number_of_terms_that_no_sum_takes_has_no_limit(terms: int) -> None:
    with pytest.raises(ParameterError, match=f"takes 1 to 1048576 terms, not {terms}"):
        term_limit(terms)


def test_a_sum_of_as_many_terms_as_there_may_be_at_the_limit_is_exact() -> None:
    value = math.nextafter(term_limit(MAX_TERMS), 0)
    total = summed(value)
    one = kept(total)
    for _ in range(20):
        total = total + total
    assert total.terms == MAX_TERMS
    assert kept(total) == MAX_TERMS * one
    assert total.total().item() == float(MAX_TERMS * one) < MAX_SUM


def test_a_sum_of_as_many_terms_as_there_may_be_keeps_the_largest_fine_parts() -> None:
    total = ExactSum.zero(1)
    total.carry_()
    total.add_(torch.tensor([2.0**-17]))  # halfway between two multiples of 2**-16
    assert total.coarse is not None
    assert (total.coarse.item(), total.fine.item()) == (0.0, 2**33)
    for _ in range(20):
        total = total + total
    assert total.total().item() == 8.0
