"""How a channel's updates become one tensor, by hand."""

import weakref
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from roundel.core.errors import ParameterError
from roundel.core.exact import ExactSum
from roundel.core.seeds import torch_generator
from roundel.strategies.aggregators import LowerMedian, Maximum, Mean, OverRows, Rows
from roundel.strategies.sites import Aggregator, RoundContext
from tests.strategies.updates import CONTEXT, vec

Entry = tuple[int, Tensor, float]

THREE: list[Entry] = [(0, vec(1, -2), 10.0), (1, vec(3, 0), 30.0), (2, vec(-2, 4), 60.0)]
COUNTERS: list[Entry] = [
    (0, torch.tensor([5, -7]), 1.0),
    (1, torch.tensor([2**62 + 1, -9]), 1.0),
    (2, torch.tensor([6, -8]), 1.0),
]


def reduced(
    aggregator: Aggregator,
    entries: Iterable[Entry],
    denominator: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    accumulator = aggregator.start(2, dtype)
    for client_id, value, weight in entries:
        accumulator.add(client_id, value, weight)
    return accumulator.finish(denominator, CONTEXT)


def test_the_mean_is_weighted():
    # Sums of 10 + 90 - 120 = -20 and -20 + 0 + 240 = 220 over weights of 100 together.
    assert reduced(Mean(), THREE).tolist() == [-0.2, 2.2]


def test_an_unweighted_mean_counts_every_client_once():
    assert reduced(Mean(weighted=False), THREE).tolist() == pytest.approx([2 / 3, 2 / 3])


def test_a_fixed_denominator_takes_the_place_of_the_sum_of_weights():
    assert reduced(Mean(), THREE, denominator=200.0).tolist() == [-0.1, 1.1]


def test_a_mean_by_arrivals_ignores_a_fixed_denominator():
    assert reduced(Mean(by_arrivals=True), THREE, denominator=200.0).tolist() == [-0.2, 2.2]


def test_an_unweighted_mean_ignores_a_denominator_of_weights():
    alone = [(0, vec(3, 6), 10.0)]
    assert reduced(Mean(weighted=False), alone, denominator=200.0).tolist() == [3, 6]


def test_the_mean_is_exact_where_floats_in_a_row_are_not():
    entries = [(0, vec(2.0**34, 0), 1.0), (1, vec(2.0**-20, 0), 1.0), (2, vec(-(2.0**34), 0), 1.0)]
    assert 2.0**34 + 2.0**-20 - 2.0**34 == 0
    assert reduced(Mean(), entries, denominator=1.0).tolist() == [2.0**-20, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_mean_has_the_dtype_asked_for(dtype):
    entries = [(k, value.to(dtype), weight) for k, value, weight in THREE]
    assert reduced(Mean(), entries, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("size", [3, 70_000, 300_000])
def test_the_mean_has_the_bits_of_a_sum_one_after_another(size: int):
    generator = torch_generator(0)
    values = [torch.randn(size, generator=generator) for _ in range(8)]
    expected, accumulator = ExactSum.zero(size), Mean().start(size, torch.float32)
    for k, value in enumerate(values):
        expected.add_(value, float(k + 1))
        accumulator.add(k, value, float(k + 1))
        value.zero_()  # what was added is no longer looked at
    found = accumulator.finish(None, CONTEXT)
    assert torch.equal(found, expected.total(36.0, torch.float32))
    assert torch.equal(accumulator.finish(None, CONTEXT), found)


@pytest.mark.parametrize("size", [2, 300_000])
def test_a_vector_that_does_not_fit_is_refused_when_it_comes(size: int):
    accumulator = Mean().start(size, torch.float32)
    with pytest.raises(ParameterError, match="cannot be added to a sum of shape"):
        accumulator.add(0, torch.zeros(1), 1.0)


def test_the_maximum_is_taken_elementwise_and_exactly():
    assert reduced(Maximum(), COUNTERS, dtype=torch.int64).tolist() == [2**62 + 1, -7]


def test_the_lower_median_of_counters_is_exact_whoever_lies():
    # Of 5, 2**62 + 1 and 6 the middle; of -7, -9 and -8 likewise; of two, the smaller one.
    assert reduced(LowerMedian(), COUNTERS, dtype=torch.int64).tolist() == [6, -8]
    assert reduced(LowerMedian(), COUNTERS[:2], dtype=torch.int64).tolist() == [5, -9]
    assert reduced(LowerMedian(), COUNTERS[1:2], dtype=torch.int64).tolist() == [2**62 + 1, -9]
    assert reduced(LowerMedian(), [], dtype=torch.int64).tolist() == [0, 0]


def test_a_rule_sees_each_update_once_and_they_are_let_go_of_meanwhile():
    accumulator = OverRows("sum", lambda rows, _weights, _: rows.sum(dim=0)).start(2, torch.float64)
    rows = [vec(1, 2) for _ in range(3)]
    kept = [weakref.ref(row) for row in rows]
    for client_id in range(3):
        accumulator.add(client_id, rows.pop(), 1.0)
    assert all(one() is not None for one in kept)
    assert accumulator.finish(None, CONTEXT).tolist() == [3, 6]
    assert all(one() is None for one in kept)


def seen_by(rows: list[list[float]], weights: list[float]):
    """Return a rule that writes down what it sees."""

    def rule(matrix: Tensor, given: Tensor, context: RoundContext) -> Tensor:
        rows.extend(matrix.tolist())
        weights.extend(given.tolist())
        assert matrix.dtype == given.dtype == torch.float64
        assert context is CONTEXT
        return matrix[0]

    return rule


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_a_rule_over_rows_sees_them_by_client_whatever_the_order_of_arrival(order):
    rows, weights = [], []
    first = reduced(OverRows("watch", seen_by(rows, weights)), [THREE[place] for place in order])
    assert rows == [[1, -2], [3, 0], [-2, 4]]
    assert weights == [10, 30, 60]
    assert first.tolist() == [1, -2]


def test_a_rule_over_rows_works_in_float64_and_gives_back_the_models_dtype():
    rows = []
    narrow = [(k, value.float(), weight) for k, value, weight in THREE]
    result = reduced(OverRows("watch", seen_by(rows, [])), narrow, dtype=torch.float32)
    assert result.dtype == torch.float32


@pytest.mark.parametrize(
    ("aggregator", "entries", "dtype"),
    [
        (Mean(), THREE, torch.float64),
        (Mean(weighted=False), THREE, torch.float64),
        (Maximum(), COUNTERS, torch.int64),
        (LowerMedian(), COUNTERS, torch.int64),
        (OverRows("sum", lambda rows, weights, _: weights @ rows), THREE, torch.float64),
    ],
    ids=["mean", "unweighted", "maximum", "median", "rows"],
)
def test_accumulators_merge_to_what_one_would_be(aggregator, entries, dtype):
    left, right = aggregator.start(2, dtype), aggregator.start(2, dtype)
    right.add(*entries[0])
    left.add(*entries[2])
    right.add(*entries[1])
    left.merge(right)
    whole = reduced(aggregator, entries, dtype=dtype)
    assert torch.equal(left.finish(None, CONTEXT), whole)


def test_rows_stay_as_they_are_by_client_whatever_the_order_of_arrival():
    large = 2**62 + 1  # which no float64 holds
    entries = [(7, torch.tensor([1, 2]), 1.0), (3, torch.tensor([large, 4]), 2.0)]
    rows = reduced(Rows(), entries, dtype=torch.int64)
    assert rows.tolist() == [[large, 4], [1, 2]]
    assert reduced(Rows(), []).shape == (0, 2)


def test_traits_tell_sums_from_sets():
    assert Mean().traits == Maximum().traits == frozenset({"sum"})
    assert LowerMedian().traits == frozenset({"set"})
    assert OverRows("any", lambda rows, _weights, _context: rows[0]).traits == frozenset({"set"})
