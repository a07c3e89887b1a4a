"""Krum and Multi-Krum, by hand and against loops."""

import random

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam
from roundel.strategies.krum import krum, krum_scores, lowest, multi_krum
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import points, update, vec

# Distances on a line: 0, 1, 3, 7 and 20.
LINE = matrix([0], [1], [3], [7], [20])


def by_loops(rows, count, power):
    scores = []
    for place, one in enumerate(rows):
        others = [float((one - o).norm()) ** power for k, o in enumerate(rows) if k != place]
        scores.append(sum(sorted(others)[:count]))
    return vec(*scores)


def test_scores_are_sums_of_squares_to_the_nearest_others():
    # n - f - 2 = 2 neighbours: 1 + 9, 1 + 4, 4 + 9, 16 + 36, 169 + 289.
    assert krum_scores(LINE, 1).tolist() == [10, 5, 13, 52, 458]
    assert aggregate(krum(f=1), LINE).tolist() == [1]


@pytest.mark.parametrize(
    ("convention", "scores"),
    [
        ("paper", [10, 5, 13, 52, 458]),
        ("flower", [10, 5, 13, 52, 458]),
        ("byzfl", [10 + 49, 5 + 36, 13 + 16, 52 + 49, 458 + 361]),
        ("lpd-epfl", [1 + 3 + 7, 1 + 2 + 6, 2 + 3 + 4, 4 + 6 + 7, 13 + 17 + 19]),
        ("epfml", [1 + 81, 1 + 16, 16 + 81, 256 + 1296, 13**4 + 17**4]),
        ("moranant", [1 + 3 + 7 + 20, 1 + 2 + 6 + 19, 2 + 3 + 4 + 17, 4 + 6 + 7 + 13, 69]),
    ],
)
def test_conventions_differ_in_neighbours_and_powers(convention, scores):
    torch.testing.assert_close(krum_scores(LINE, 1, convention), vec(*scores))
    assert aggregate(krum(f=1, convention=convention), LINE).equal(LINE[scores.index(min(scores))])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("convention", "fewer", "power"),
    [
        ("paper", 2, 2),
        ("flower", 2, 2),
        ("byzfl", 1, 2),
        ("lpd-epfl", 1, 1),
        ("epfml", 2, 4),
        ("moranant", 0, 1),
    ],
)
def test_scores_are_those_of_a_loop(convention, fewer, power, seed):
    draw = random.Random(seed)
    f = draw.randint(0, 4)
    rows = drawn(2 * f + 3 + draw.randint(0, 6), 9, seed)
    count = len(rows) - f - fewer
    torch.testing.assert_close(
        krum_scores(rows, f, convention), by_loops(rows, count, power), rtol=1e-12, atol=0
    )


def test_of_equal_scores_the_lowest_client_number_wins():
    rows = matrix([1, 0], [0, 1], [-1, 0], [0, -1], [50, 50])
    assert aggregate(krum(f=1), rows).tolist() == [1, 0]
    assert aggregate(krum(f=1), rows[[1, 0, 3, 2, 4]]).tolist() == [0, 1]
    assert lowest(vec(2, 1, 1, 2, 0), 4).tolist() == [4, 1, 2, 0]


def test_a_cluster_of_f_copies_does_not_win():
    rows = torch.cat([drawn(6, 4, seed=0), 1e9 + torch.zeros(3, 4, dtype=torch.float64)])
    assert aggregate(krum(f=3), rows).abs().max() < 10


def test_all_equal_updates_give_that_update():
    rows = matrix([2.5, -1], [2.5, -1], [2.5, -1], [2.5, -1], [2.5, -1])
    assert aggregate(krum(), rows).tolist() == [2.5, -1]
    assert aggregate(multi_krum(), rows).tolist() == [2.5, -1]


def test_weights_play_no_part_in_krum():
    assert aggregate(krum(f=1), LINE, weights=[1, 1, 1, 1, 1000]).tolist() == [1]


def test_multi_krum_averages_the_m_best():
    assert aggregate(multi_krum(f=1, m=1), LINE).tolist() == [1]
    assert aggregate(multi_krum(f=1, m=3), LINE).tolist() == [4 / 3]
    assert aggregate(multi_krum(f=1), LINE).tolist() == [0.5]  # m = n - f - 2 = 2
    assert aggregate(multi_krum(f=1, convention="byzfl"), LINE).tolist() == [2.75]  # n - f = 4
    assert aggregate(multi_krum(f=1, convention="flower"), LINE).tolist() == [1]


def test_multi_krum_of_all_is_the_unweighted_mean():
    rows = drawn(7, 5, seed=3)
    torch.testing.assert_close(aggregate(multi_krum(m=7), rows), rows.mean(dim=0))


def test_multi_krum_weighs_by_examples_where_it_is_asked_to():
    weights = [3.0, 1.0, 100.0, 100.0, 100.0]
    assert aggregate(multi_krum(f=1, m=2), LINE, weights).tolist() == [0.5]
    assert aggregate(multi_krum(f=1, m=2, weights="examples"), LINE, weights).tolist() == [0.25]
    assert aggregate(multi_krum(f=1, m=2, convention="flower"), LINE, weights).tolist() == [0.25]
    plain = multi_krum(f=1, m=2, convention="flower", weights="uniform")
    assert aggregate(plain, LINE, weights).tolist() == [0.5]


def test_weights_by_examples_are_the_clients_examples():
    strategy = compose(multi_krum(f=1, m=2, weights="examples"))
    counts = (3, 1, 1, 1, 1)
    each = [update(k, *LINE[k].tolist(), examples=n) for k, n in enumerate(counts)]
    assert points(strategy, vec(0), each) == [[0.25]]
    with pytest.raises(CompositionError, match="both set the weigher"):
        compose(multi_krum(weights="examples"), fedavg(weights="uniform"))


def test_one_code_returns_the_sum():
    # Fourth powers put 1 first, then 0, as squares do.
    assert aggregate(multi_krum(f=1, m=2, convention="epfml"), LINE).tolist() == [1]
    assert aggregate(multi_krum(f=1, m=3, convention="epfml"), LINE).tolist() == [4]


def test_a_fraction_is_of_the_updates_that_arrived():
    rows = drawn(10, 3, seed=1)
    assert aggregate(krum(), rows).equal(aggregate(krum(f=2), rows))
    assert aggregate(krum(), rows[:9]).equal(aggregate(krum(f=1), rows[:9]))


@pytest.mark.parametrize(
    ("convention", "least"),
    [("paper", 7), ("byzfl", 5), ("lpd-epfl", 7), ("epfml", 7), ("moranant", 7), ("flower", 1)],
)
def test_how_few_updates_will_do_depends_on_the_convention(convention, least):
    rows = drawn(7, 3, seed=2)
    part = krum(f=2, convention=convention)
    assert aggregate(part, rows[:least]).shape == (3,)
    if least > 1:
        with pytest.raises(CompositionError, match=f"f = 2 needs at least {least} updates"):
            aggregate(part, rows[: least - 1])


def test_more_than_arrived_cannot_be_averaged():
    with pytest.raises(CompositionError, match="average m = 6 updates, and 5 arrived; lower m"):
        aggregate(multi_krum(f=1, m=6), LINE)


@pytest.mark.parametrize(
    ("make", "knobs", "message"),
    [
        (krum, {"f": -2}, "f = -2"),
        (krum, {"fraction": 0.6}, "fraction = 0.6"),
        (krum, {"convention": "mine"}, "convention = 'mine' must be one of 'paper', 'flower'"),
        (multi_krum, {"m": 0}, "m = 0 must be a whole number of at least 1"),
    ],
)
def test_what_is_out_of_range_is_named(make, knobs, message):
    with pytest.raises(CompositionError, match=message):
        make(**knobs)


def test_krum_feeds_a_server_optimizer():
    # Adam with v_0 = tau**2 = 1 and beta_1 = beta_2 = 0 steps by 1 / (|1| + 1).
    strategy = compose(krum(f=1), fedadam(server_lr=1.0, beta_1=0.0, beta_2=0.0, tau=1.0))
    each = [update(k, *row) for k, row in enumerate(LINE.tolist())]
    assert points(strategy, vec(0), each) == [[0.5]]
