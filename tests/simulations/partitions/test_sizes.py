"""Shares become whole numbers that are fair, and a minimum is met by taking from the largest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.errors import DataError
from roundel.simulations.partitions.sizes import check_enough, fill_up, portions, with_minimum


class Offset:
    """Stands for a generator that draws one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0.0, [2, 2, 2, 3]), (0.25, [2, 2, 3, 2]), (0.5, [2, 3, 2, 2]), (0.75, [3, 2, 2, 2])],
)
def test_nine_examples_for_four_equal_clients_are_rounded_by_the_offset(offset, expected):
    assert portions(np.ones(4), 9, Offset(offset)).tolist() == expected  # type: ignore[arg-type]


def test_portions_follow_the_weights():
    generator = np.random.default_rng(0)
    assert portions(np.array([3.0, 1.0, 0.0]), 8, generator).tolist() == [6, 2, 0]


@pytest.mark.parametrize(
    ("sizes", "minimum", "expected"),
    [
        ([3, 1], 1, [3, 1]),
        ([7, 5, 0, 1], 2, [4, 5, 2, 2]),
        ([0, 9, 0], 3, [3, 3, 3]),
        ([4, 4, 4, 0], 1, [3, 4, 4, 1]),
        ([4, 4, 4, 0], 3, [3, 3, 3, 3]),
        ([10, 6, 0, 0], 4, [4, 4, 4, 4]),
        ([10, 6, 0, 0], 2, [6, 6, 2, 2]),
    ],
)
def test_clients_below_the_minimum_are_filled_up_by_the_largest(sizes, minimum, expected):
    assert fill_up(np.array(sizes), minimum).tolist() == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.data())
@settings(max_examples=60)
def test_filling_up_equals_taking_one_example_at_a_time(sizes, data):
    minimum = data.draw(st.integers(0, sum(sizes) // len(sizes)))
    filled = fill_up(np.array(sizes), minimum)
    while min(sizes) < minimum:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[next(k for k, size in enumerate(sizes) if size < minimum)] += 1
    assert filled.tolist() == sizes


def test_an_assignment_that_meets_the_minimum_is_left_alone():
    owner = np.array([0, 1, 1, 0])
    assert with_minimum(owner, 2, 2, np.random.default_rng(0)) is owner


def test_who_gives_an_example_keeps_the_others_and_nothing_is_changed_in_place():
    owner = np.array([0, 0, 0, 1])
    filled = with_minimum(owner, 2, 2, np.random.default_rng(0))
    assert owner.tolist() == [0, 0, 0, 1]
    assert filled[3] == 1
    assert sorted(filled.tolist()) == [0, 0, 1, 1]


def test_too_few_examples_for_the_minimum_is_an_error_with_the_figures():
    check_enough(1010, 101, 10)
    with pytest.raises(
        DataError,
        match=r"clients = 101 with partition.min_examples = 10 need 1010 examples and .* has 1009",
    ):
        check_enough(1009, 101, 10)
