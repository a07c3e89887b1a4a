"""Geometric medians that are known, and the sum of distances that they make smallest."""

import math
import random

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.geometric_median import geometric_median, rfa
from roundel.strategies.weighers import BY_EXAMPLES
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import points, update, vec

TIGHT = {"iterations": 3000, "tol": 1e-10, "nu": 1e-12}


def test_one_step_on_a_line_is_a_mean_weighted_by_inverse_distances():
    # From the mean 3: distances 3, 2 and 5, so (0 / 3 + 1 / 2 + 8 / 5) / (1 / 3 + 1 / 2 + 1 / 5).
    found = aggregate(geometric_median(iterations=1, init="mean"), matrix([0], [1], [8]))
    torch.testing.assert_close(found, vec(2.1 / (31 / 30)))


def test_two_steps_from_the_weighted_mean_by_hand():
    # Weights 3 and 1: from 1, distances 1 and 3, so (3 * 0 / 1 + 1 * 4 / 3) / (3 + 1 / 3) = 0.4;
    # then 0.4 and 3.6: (4 / 3.6) / (3 / 0.4 + 1 / 3.6) = 1 / 7.
    found = aggregate(rfa(iterations=2, tol=0.0), matrix([0], [4]), weights=[3, 1])
    torch.testing.assert_close(found, vec(1 / 7))


def test_distances_are_at_least_nu():
    # From 0, which is the first update: distances 0 and 1 count as 0.5 and 1.
    part = geometric_median(iterations=1, nu=0.5, init="zero")
    torch.testing.assert_close(aggregate(part, matrix([0], [1])), vec(1 / 3))


def test_no_iterations_are_the_median_of_each_coordinate():
    rows = matrix([0, 5], [1, 90], [8, -7])
    assert aggregate(geometric_median(iterations=0), rows).tolist() == [1, 5]


@pytest.mark.parametrize("away", [1e2, 1e4, 1e9])
@pytest.mark.parametrize("init", ["median", "mean", "zero"])
def test_an_update_placed_where_it_begins_does_not_hold_it_there(init, away):
    # Two of ten collude: one is far away, the other is at the mean of all, at the median or at 0.
    rows = drawn(10, 6, seed=4)
    rows[8] = away
    if init == "mean":
        rows[9] = rows[:9].sum(dim=0) / 9  # the mean of all ten
    elif init == "zero":
        rows[9] = 0.0
    for _ in range(20 if init == "median" else 0):
        rows[9] = rows.sort(dim=0).values[4:6].mean(dim=0)
    expected = slowly(rows)
    found = aggregate(geometric_median(init=init), rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.norm() < 4


def slowly(rows):
    """Return the geometric median, by plain Weiszfeld steps from beside the honest rows' mean."""
    point = rows[:8].mean(dim=0) + 0.01
    for _ in range(500):
        pulls = 1 / (rows - point).norm(dim=1).clamp(min=1e-12)
        point = pulls @ rows / pulls.sum()
    return point


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
@pytest.mark.parametrize("init", ["median", "mean", "zero"])
def test_the_unit_of_the_updates_does_not_matter(init, scale):
    rows = drawn(9, 5, seed=6)
    rows[0] = 1e3
    part = geometric_median(init=init)
    found, wanted = aggregate(part, rows * scale), aggregate(part, rows) * scale
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * scale)


def test_more_than_half_at_one_point_are_the_median_at_once():
    for away in (1.0, 1e3, 1e9):
        rows = matrix([1, 2], [1, 2], [1, 2], [7 * away, 8 * away], [9 * away, -5])
        torch.testing.assert_close(
            aggregate(geometric_median(), rows), vec(1, 2), rtol=0, atol=1e-6
        )
    assert abs(aggregate(geometric_median(), matrix([0], [0], [0], [5])).item()) < 1e-15


@pytest.mark.parametrize("init", ["mean", "zero"])
def test_the_median_of_a_squares_corners_is_its_centre(init):
    rows = matrix([0, 0], [2, 0], [0, 2], [2, 2]) + 0.3
    found = aggregate(geometric_median(**TIGHT, init=init), rows)
    torch.testing.assert_close(found, vec(1.3, 1.3))


def test_the_median_of_a_triangle_sees_each_side_under_120_degrees():
    # For the corners (-1, 0), (1, 0) and (0, h) that point is (0, 1 / sqrt(3)), whatever h above.
    rows = matrix([-1, 0], [1, 0], [0, 40])
    found = aggregate(geometric_median(**TIGHT), rows)
    torch.testing.assert_close(found, vec(0, 1 / math.sqrt(3)), rtol=1e-7, atol=1e-7)


def test_a_corner_of_more_than_120_degrees_is_the_median_itself():
    found = aggregate(geometric_median(**TIGHT), matrix([-3, 0.1], [3, 0.1], [0, 0]))
    torch.testing.assert_close(found, vec(0, 0), rtol=0, atol=1e-6)


def test_more_than_half_of_the_weight_decides():
    rows = matrix([1, 1], [50, -7], [-9, 80])
    heavy = geometric_median(**TIGHT, weights="examples")
    torch.testing.assert_close(
        aggregate(heavy, rows, weights=[3, 1, 1]), vec(1, 1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_point_nearby_has_a_smaller_sum_of_distances(seed):
    draw = random.Random(seed)
    rows = drawn(draw.randint(3, 9), 3, seed)
    weights = [draw.uniform(0.5, 3) for _ in rows]
    shares = torch.tensor(weights, dtype=torch.float64)
    found = aggregate(geometric_median(**TIGHT, weights="examples"), rows, weights)

    def cost(point):
        return float(shares @ (rows - point).norm(dim=1))

    least = cost(found)
    for step in drawn(20, 3, seed + 100):
        assert cost(found + 1e-3 * step) >= least - 1e-9


@pytest.mark.parametrize("part", [geometric_median(iterations=0, init="mean"), rfa(iterations=0)])
def test_no_iterations_are_the_mean_with_its_weights(part):
    rows, weights = drawn(5, 4, seed=1), [1.0, 2.0, 3.0, 4.0, 5.0]
    shares = torch.tensor(weights, dtype=torch.float64) / 15
    expected = shares @ rows if part.weigher is BY_EXAMPLES else rows.mean(dim=0)
    torch.testing.assert_close(aggregate(part, rows, weights), expected)


def test_weights_below_1_are_weights_like_others():
    rows = drawn(4, 3, seed=5)
    weights = [0.1, 0.05, 0.2, 0.1]
    more = [100 * weight for weight in weights]
    torch.testing.assert_close(aggregate(rfa(), rows, weights), aggregate(rfa(), rows, more))
    torch.testing.assert_close(aggregate(rfa(iterations=0), rows, [0.25] * 4), rows.mean(dim=0))


def test_no_iterations_of_rfa_are_federated_averaging():
    each = [update(0, 1.0, 2.0, examples=3), update(1, 5.0, -6.0, examples=1)]
    averaged = points(compose(fedavg()), vec(0, 0), each)
    assert points(compose(rfa(iterations=0)), vec(0, 0), each) == averaged == [[2, 0]]


def test_no_iterations_from_zero_change_nothing():
    assert aggregate(geometric_median(iterations=0, init="zero"), matrix([5], [7])).item() == 0


@pytest.mark.parametrize("make", [rfa, geometric_median])
def test_a_large_tolerance_stops_after_the_first_iteration(make):
    rows = drawn(6, 4, seed=2)
    once = aggregate(make(iterations=1), rows)
    assert aggregate(make(iterations=9, tol=10.0), rows).equal(once)
    assert not aggregate(make(iterations=9, tol=0.0), rows).equal(once)


def test_all_equal_updates_give_that_update():
    rows = matrix([2.5, -1], [2.5, -1], [2.5, -1])
    torch.testing.assert_close(aggregate(rfa(), rows, weights=[1, 2, 4]), vec(2.5, -1))
    assert aggregate(geometric_median(), rows[:1]).tolist() == [2.5, -1]


def test_a_minority_far_away_moves_it_little():
    # However far they are: their distances must not end the iterations early.
    rows = drawn(10, 5, seed=3)
    rows[:3] = 100.0
    expected = aggregate(geometric_median(), rows)
    assert expected.norm() < 3
    rows[:3] = 1e9
    torch.testing.assert_close(aggregate(geometric_median(), rows), expected, rtol=0, atol=0.1)


def test_four_iterations_are_not_always_enough():
    # The first z is 2e8 away; each iteration takes it a few times nearer.
    rows = drawn(10, 5, seed=3)
    rows[:2] = 1e9
    away = [float(aggregate(rfa(iterations=n, tol=0.0), rows).norm()) for n in (0, 2, 4, 20)]
    assert away[0] > 4 * away[1] > 16 * away[2]
    assert away[2] > 1e5
    assert away[3] < 3


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"iterations": -1}, "iterations = -1 must be a whole number of at least 0"),
        ({"nu": 0.0}, "nu = 0.0 must be a finite number above 0"),
        ({"tol": -1e-6}, "tol = -1e-06 must be a finite number of at least 0"),
        (
            {"init": "first"},
            "init = 'first' must be one of 'median', 'mean', 'weighted mean', 'zero'",
        ),
        ({"weights": "rank"}, "weights = 'rank' must be one of 'examples', 'uniform'"),
    ],
)
def test_what_is_out_of_range_is_named(knobs, message):
    with pytest.raises(CompositionError, match=message):
        geometric_median(**knobs)
