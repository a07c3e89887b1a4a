"""Laws of exact sums: equal bit for bit in any order, grouping and merge tree."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundel.core.exact import MAX_SUM, ExactSum, term_limit

Term = tuple[Tensor, float]

_WIDTH = 3
_FAST = settings(max_examples=25, deadline=None)


def kept(total: ExactSum) -> list[Fraction]:
    """Return what a sum holds, before it is rounded."""
    coarse = [0.0] * _WIDTH if total.coarse is None else total.coarse.tolist()
    return [
        Fraction(f, 2**50) + Fraction(c) for f, c in zip(total.fine.tolist(), coarse, strict=True)
    ]


def bits(total: ExactSum) -> tuple[list[Fraction], list[int], int]:
    """Return everything that a sum says: -0.0 and 0.0 differ here."""
    return kept(total), total.total().view(torch.int64).tolist(), total.terms


def in_order(terms: Sequence[Term]) -> ExactSum:
    total = ExactSum.zero(_WIDTH)
    for vector, weight in terms:
        total.add_(vector, weight)
    return total


def by_random_merges(terms: Sequence[Term], randomness: random.Random) -> ExactSum:
    """Cut into random groups, sum each, and merge the sums two at a time, at random."""
    groups: list[list[Term]] = [[] for _ in range(randomness.randint(1, len(terms) + 1))]
    for term in terms:
        randomness.choice(groups).append(term)
    sums = [in_order(group) for group in groups]
    while len(sums) > 1:
        randomness.shuffle(sums)
        sums.append(sums.pop() + sums.pop())
    return sums[0]


@st.composite
def lists_of_terms(draw: st.DrawFn) -> list[Term]:
    """Up to 10 weighted vectors of one dtype, of very different magnitudes."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    magnitudes = st.integers(-60, 24).map(lambda power: 2.0**power)
    numbers = st.builds(
        lambda mantissa, magnitude: mantissa * magnitude,
        st.floats(-1, 1, width=32 if dtype == torch.float32 else 64),
        magnitudes,
    )
    weights = st.one_of(st.just(1.0), st.integers(0, 1000).map(float), st.floats(0, 1000))
    vectors = st.lists(numbers, min_size=_WIDTH, max_size=_WIDTH)
    terms = draw(st.lists(st.tuples(vectors, weights), max_size=10))
    return [(torch.tensor(vector, dtype=dtype), weight) for vector, weight in terms]


@given(lists_of_terms(), st.integers(0, 10))
@_FAST
def test_rows_are_added_as_one_after_another(terms: list[Term], cut: int) -> None:
    total = in_order(terms[:cut])
    rest = terms[cut:]
    if rest:
        total.add_rows_(torch.stack([vector for vector, _ in rest]), [w for _, w in rest])
    assert bits(total) == bits(in_order(terms))


def exact_sums(terms: Sequence[Term]) -> list[Fraction]:
    """Sum the float64 products in rational numbers."""
    return [
        sum((Fraction(vector[i].item() * weight) for vector, weight in terms), Fraction(0))
        for i in range(_WIDTH)
    ]


@given(lists_of_terms(), st.randoms(use_true_random=False))
@_FAST
def test_the_order_of_the_terms_does_not_change_a_bit(
    terms: list[Term], randomness: random.Random
) -> None:
    shuffled = randomness.sample(terms, len(terms))
    assert bits(in_order(shuffled)) == bits(in_order(terms))


@given(lists_of_terms(), st.randoms(use_true_random=False))
@_FAST
def test_grouping_and_merging_in_any_tree_does_not_change_a_bit(
    terms: list[Term], randomness: random.Random
) -> None:
    assert bits(by_random_merges(terms, randomness)) == bits(in_order(terms))


@given(lists_of_terms())
@_FAST
def test_the_empty_sum_is_the_unit_of_merging(terms: list[Term]) -> None:
    total = in_order(terms)
    assert bits(total + ExactSum.zero(_WIDTH)) == bits(ExactSum.zero(_WIDTH) + total) == bits(total)


@given(lists_of_terms())
@_FAST
def test_the_error_is_at_most_two_to_the_minus_51_a_term(terms: list[Term]) -> None:
    total = in_order(terms)
    for i, exact in enumerate(exact_sums(terms)):
        held = kept(total)[i]
        assert abs(held - exact) <= len(terms) * Fraction(1, 2**51)
        assert total.total()[i].item() == float(held)


@given(lists_of_terms())
@_FAST
def test_the_total_agrees_with_a_correctly_rounded_sum(terms: list[Term]) -> None:
    total = in_order(terms).total()
    for i in range(_WIDTH):
        correct = math.fsum(vector[i].item() * weight for vector, weight in terms)
        assert abs(total[i].item() - correct) <= len(terms) * 2.0**-51 + math.ulp(correct)


@given(lists_of_terms(), st.floats(2.0**-20, 2.0**20))
@_FAST
def test_the_divisor_and_the_dtype_come_last(terms: list[Term], divisor: float) -> None:
    total = in_order(terms)
    mean = torch.tensor([kept / divisor for kept in total.total().tolist()], dtype=torch.float64)
    assert torch.equal(total.total(divisor), mean)
    assert torch.equal(total.total(divisor, torch.float32), mean.float())


@given(
    st.integers(1, 40),
    st.floats(0.5, 1, exclude_max=True),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(_FAST, max_examples=15)
def test_terms_up_to_their_limit_never_leave_the_exact_range(
    count: int, scale: float, same_sign: bool, randomness: random.Random
) -> None:
    limit = term_limit(count)
    sign = [1.0 if same_sign else randomness.choice([-1.0, 1.0]) for _ in range(count)]
    values = [s * randomness.uniform(scale, 1) * limit for s in sign[1:]] + [sign[0] * limit]
    terms = [(torch.full((_WIDTH,), value, dtype=torch.float64), 1.0) for value in values]
    total = in_order(terms)
    assert kept(total)[0] == sum(kept(in_order([term]))[0] for term in terms)
    assert bits(by_random_merges(terms, randomness)) == bits(total)
    assert total.total().abs().max() < MAX_SUM
