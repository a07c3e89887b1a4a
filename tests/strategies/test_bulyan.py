"""Bulyan, by hand and against loops."""

import random
import statistics

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.strategies.bulyan import bulyan, bulyan_selection
from roundel.strategies.krum import krum_scores
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import vec


def selected_by_loops(rows, f):
    """Run Krum again and again on what is left, from the start each time."""
    left = list(range(len(rows)))
    chosen = []
    for _ in range(len(rows) - 2 * f):
        count = max(1, len(left) - f - 2)
        scores = []
        for one in left:
            away = sorted(float((rows[one] - rows[o]).square().sum()) for o in left if o != one)
            scores.append(sum(away[:count]))
        chosen.append(left.pop(scores.index(min(scores))))
    return chosen


def around_the_median(values, kept):
    centre = statistics.median(values)
    return statistics.fmean(sorted(sorted(values), key=lambda v: abs(v - centre))[:kept])


@pytest.mark.parametrize("seed", range(25))
def test_the_selection_is_that_of_krum_run_again_and_again(seed):
    draw = random.Random(seed)
    f = draw.randint(0, 4)
    rows = drawn(4 * f + 3 + draw.randint(0, 8), 6, seed)
    assert bulyan_selection(rows, f).tolist() == selected_by_loops(rows, f)


@pytest.mark.parametrize("seed", range(25))
def test_ties_go_to_the_lowest_client_number(seed):
    # Whole numbers on a line: many distances are equal, and all sums of them exact.
    draw = random.Random(seed)
    f = draw.randint(0, 3)
    count = 4 * f + 3 + draw.randint(0, 5)
    rows = matrix(*([float(draw.randint(0, 9))] for _ in range(count)))
    assert bulyan_selection(rows, f).tolist() == selected_by_loops(rows, f)


def test_a_far_cluster_of_f_leaves_the_others_scores_their_digits():
    rows = drawn(15, 6, seed=3)
    rows[[2, 7, 11]] = 1e12 + rows[[2, 7, 11]] * 1e3
    found = bulyan_selection(rows, 3).tolist()
    assert found == selected_by_loops(rows, 3)
    assert {2, 7, 11}.isdisjoint(found)


def test_the_one_shot_selection_is_by_scores_among_all():
    rows = drawn(11, 6, seed=4)
    scores = krum_scores(rows, 2).tolist()
    expected = sorted(range(11), key=lambda k: scores[k])[:7]
    assert bulyan_selection(rows, 2, "one-shot").tolist() == expected


def test_the_values_nearest_to_the_median_of_the_selected_are_averaged():
    # f = 1 of 7: the far one is not selected, and one of the rest neither: theta = 5, 3 values.
    rows = matrix([0], [1], [2], [3], [4], [7], [1000])
    chosen = selected_by_loops(rows, 1)
    assert sorted(chosen) == [0, 1, 2, 3, 4]
    assert aggregate(bulyan(f=1), rows).tolist() == [2]


@pytest.mark.parametrize(("sign", "expected"), [(1, 7 / 3), (-1, -11 / 3)])
def test_of_two_values_as_far_from_the_median_the_smaller_counts(sign, expected):
    # The last two are far away. Of 1, 3, 3, 5, 9 the three nearest to 3 are 3, 3 and 1 or 5.
    rows = matrix([1, 0], [3, 0], [3, 0], [5, 0], [9, 0], [4, 1000], [4, -1000])
    torch.testing.assert_close(aggregate(bulyan(f=1), sign * rows), vec(expected, 0))


def test_if_nobody_lies_all_are_averaged():
    assert aggregate(bulyan(f=0), matrix([0], [1], [5])).tolist() == [2]


@pytest.mark.parametrize("selection", ["iterated", "one-shot"])
@pytest.mark.parametrize("seed", range(10))
def test_it_is_what_loops_give(selection, seed):
    draw = random.Random(seed)
    f = draw.randint(0, 3)
    rows = drawn(4 * f + 3 + draw.randint(0, 5), 8, seed)
    rows[:, 0] = rows[:, 0].round()  # ties around the median
    chosen = rows[bulyan_selection(rows, f, selection)]
    columns = chosen.t().tolist()
    expected = [around_the_median(column, len(chosen) - 2 * f) for column in columns]
    torch.testing.assert_close(
        aggregate(bulyan(f=f, selection=selection), rows), torch.tensor(expected).double()
    )


def test_all_equal_updates_give_that_update():
    assert aggregate(bulyan(), matrix(*([1.5, -2.0],) * 10)).tolist() == [1.5, -2]


def test_its_fraction_works_for_every_number_that_could_bear_one():
    for count in (7, 13, 14, 19, 20, 27, 34, 40):
        assert aggregate(bulyan(), drawn(count, 2, seed=count)).shape == (2,)


def test_too_few_updates_are_an_error_with_its_remedy():
    with pytest.raises(CompositionError, match="bulyan with f = 2 needs at least 11 updates, and"):
        aggregate(bulyan(f=2), drawn(10, 2, seed=0))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"f": -1}, "f = -1"),
        ({"fraction": 0.25}, r"fraction = 0.25 must be at least 0 and below 0.25"),
        ({"selection": "twice"}, "selection = 'twice' must be one of 'iterated', 'one-shot'"),
    ],
)
def test_what_is_out_of_range_is_named(knobs, message):
    with pytest.raises(CompositionError, match=message):
        bulyan(**knobs)
