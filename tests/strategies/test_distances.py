"""Sorted columns and distances."""

import random

import pytest
import torch

from roundel.strategies import distances
from roundel.strategies.distances import (
    column_tiles,
    middle,
    norms_from,
    over_columns,
    squared_distances,
)
from tests.strategies.rules import drawn, matrix
from tests.strategies.updates import vec


def by_subtraction(rows):
    return torch.stack([torch.stack([(a - b).square().sum() for b in rows]) for a in rows])


@pytest.fixture
def small_tiles(monkeypatch):
    """Make tiles so small that some rows and columns need several, and trust inner products."""
    monkeypatch.setattr(distances, "_TILE", 64)
    monkeypatch.setattr(distances, "_BLOCK", 3)


def test_columns_are_sorted_and_rows_stay_as_they_are():
    rows = matrix([3, 10], [1, 30], [2, 20])
    before = rows.clone()
    ((where, columns),) = column_tiles(rows)
    assert (where, columns.tolist()) == (slice(0, 2), [[1, 2, 3], [10, 20, 30]])
    assert rows.equal(before)


@pytest.mark.parametrize("size", [1, 7])
def test_rows_of_any_length_stay_as_they_are(size):
    rows = drawn(5, size, seed=0)
    before = rows.clone()
    over_columns(rows, middle)
    squared_distances(rows)
    assert rows.equal(before)


def test_some_rows_can_be_looked_at_alone():
    rows = matrix([3, 10], [1, 30], [2, 20])
    assert over_columns(rows, middle, torch.tensor([0, 2])).tolist() == [2.5, 15]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    assert middle(matrix([1, 2, 30], [4, 5, 6])).tolist() == [2, 5]
    assert middle(matrix([1, 2, 4, 100])).tolist() == [3]
    assert middle(matrix([7])).tolist() == [7]


@pytest.mark.usefixtures("small_tiles")
def test_tiles_do_not_change_what_is_found():
    rows = drawn(10, 41, seed=1)
    assert over_columns(rows, middle).equal(rows.sort(dim=0).values[4:6].mean(dim=0))
    point = drawn(1, 41, seed=2)[0]
    torch.testing.assert_close(norms_from(rows, point), (rows - point).norm(dim=1))
    torch.testing.assert_close(squared_distances(rows), by_subtraction(rows), rtol=1e-12, atol=0)


def test_distances_are_those_of_pythagoras():
    rows = matrix([0, 0], [3, 4], [3, 0])
    assert squared_distances(rows).tolist() == [[0, 25, 9], [25, 0, 16], [9, 16, 0]]
    assert norms_from(rows, vec(3, 4)).tolist() == [5, 0, 4]


def test_one_row_has_no_distance_to_anyone():
    assert squared_distances(matrix([1, 2])).tolist() == [[0]]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-4, 1e-9])
def test_rows_close_together_and_far_from_0_keep_their_digits(spread):
    # Inner products of the rows themselves would be off by 1e-15 of their squared lengths, 2000:
    # by more than all of the squared distances, 4000 * spread**2, where the spread is 1e-9.
    common = drawn(1, 2000, seed=3)
    rows = common + spread * drawn(9, 2000, seed=4)
    torch.testing.assert_close(squared_distances(rows), by_subtraction(rows), rtol=1e-9, atol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("far", [1e3, 1e6, 1e15])
def test_a_minority_far_away_costs_nobody_a_digit(far):
    # Four of nine say the same nonsense: their distances to each other are as exact as the others'.
    rows = drawn(9, 50, seed=5)
    rows[::2][:4] = far + 1e-9 * far * drawn(4, 50, seed=6)
    torch.testing.assert_close(squared_distances(rows), by_subtraction(rows), rtol=1e-9, atol=0)


@pytest.mark.usefixtures("small_tiles")
def test_a_far_majority_in_two_groups_costs_nobody_a_digit():
    rows = drawn(10, 50, seed=7)
    rows[:4] += 1e7
    rows[4:8] -= 1e7
    torch.testing.assert_close(squared_distances(rows), by_subtraction(rows), rtol=1e-9, atol=0)


@pytest.mark.usefixtures("small_tiles")
def test_copies_have_no_distance_at_all():
    rows = drawn(6, 50, seed=8)
    rows[4:] = 1e8 * rows[0]
    rows[1] = rows[0]
    found = squared_distances(rows)
    assert found[0, 1] == found[4, 5] == 0
    assert found.equal(found.t())


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("share", [1e-2, 10.0])
def test_what_counts_as_close_costs_time_and_no_digit(share, monkeypatch):
    # With 10, every pair is close at first sight, and all are subtracted.
    monkeypatch.setattr(distances, "_CLOSE", share)
    rows = drawn(12, 30, seed=9)
    rows[:5] += 1e4
    rows[5:7] += 1e8
    torch.testing.assert_close(squared_distances(rows), by_subtraction(rows), rtol=1e-9, atol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("seed", range(6))
def test_groups_within_groups_keep_their_digits(seed):
    draw = random.Random(seed)
    rows = drawn(16, 30, seed)
    for scale in (1e3, 1e6, 1e9):
        rows[draw.sample(range(16), draw.randint(1, 8))] += scale * drawn(1, 30, seed + 1)
    torch.testing.assert_close(squared_distances(rows), by_subtraction(rows), rtol=1e-9, atol=0)
