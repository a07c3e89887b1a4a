"""Nearest-neighbour mixing and bucketing."""

import random
from collections import Counter

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.compose import compose
from roundel.strategies.coordinatewise import median
from roundel.strategies.geometric_median import rfa
from roundel.strategies.krum import krum
from roundel.strategies.mixing import bucketing, nnm
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import RoundContext
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import points, update, vec


def mixed(part, rows, seed=0):
    (mix,) = part.mixers
    context = RoundContext(round=1, population=9, selected=9, completed=len(rows), seed=seed)
    return mix(rows, context)


def test_each_update_becomes_the_mean_of_its_nearest_neighbours():
    rows = matrix([0], [1], [3], [7], [20])
    # Four of five each: without 20, but for 20 itself, which is without 0.
    assert mixed(nnm(f=1), rows).tolist() == [[2.75], [2.75], [2.75], [2.75], [7.75]]
    assert mixed(nnm(f=2), rows).flatten().tolist() == pytest.approx(
        [4 / 3, 4 / 3, 4 / 3, 11 / 3, 10]
    )


def test_of_equally_near_ones_the_lowest_client_numbers_count_after_oneself():
    # The middle one is 1 away from both others: itself and the first.
    assert mixed(nnm(f=1), matrix([0], [1], [2])).flatten().tolist() == [0.5, 0.5, 1.5]
    # Copies: the last is its own neighbour all the same, which only its number could tell.
    assert mixed(nnm(f=1), matrix([4], [4], [4])).flatten().tolist() == [4, 4, 4]


def test_nobody_who_lies_makes_all_updates_their_mean():
    rows = drawn(5, 3, seed=0)
    torch.testing.assert_close(mixed(nnm(f=0), rows), rows.mean(dim=0).expand(5, 3))


@pytest.mark.parametrize("seed", range(8))
def test_mixing_is_what_a_loop_gives(seed):
    draw = random.Random(seed)
    count = draw.randint(1, 12)
    f = draw.randint(0, (count - 1) // 2)
    rows = drawn(count, 4, seed)
    expected = []
    for one in rows:
        order = sorted(range(count), key=lambda k, one=one: float((rows[k] - one).norm()))
        expected.append(rows[order[: count - f]].mean(dim=0))
    torch.testing.assert_close(mixed(nnm(f=f), rows), torch.stack(expected))


def test_the_fraction_is_of_the_updates_that_arrived():
    rows = drawn(10, 3, seed=1)
    assert mixed(nnm(), rows).equal(mixed(nnm(f=2), rows))


def test_half_or_more_cannot_lie():
    with pytest.raises(CompositionError, match="nnm with f = 2 needs at least 5 updates, and 4"):
        mixed(nnm(f=2), drawn(4, 2, seed=2))


def test_buckets_of_one_are_the_updates_in_another_order():
    rows = drawn(6, 3, seed=3)
    found = mixed(bucketing(s=1), rows)
    assert sorted(found.tolist()) == sorted(rows.tolist())


def test_one_bucket_of_all_is_the_mean():
    rows = drawn(5, 3, seed=4)
    torch.testing.assert_close(mixed(bucketing(s=9), rows), rows.mean(dim=0, keepdim=True))


def test_each_update_is_in_one_bucket_and_the_last_may_be_smaller():
    # Powers of two say who is in: 7 updates make three pairs and one alone.
    rows = matrix(*([2.0**k] for k in range(7)))
    found = mixed(bucketing(s=2), rows).flatten().tolist()
    assert len(found) == 4
    members = [int(2 * v) for v in found[:3]] + [int(found[3])]
    assert [m.bit_count() for m in members] == [2, 2, 2, 1]
    assert sum(members) == 2**7 - 1


def test_the_seed_decides_who_shares_a_bucket_and_all_pairs_do_at_times():
    rows = matrix(*([2.0**k] for k in range(4)))
    assert mixed(bucketing(), rows, seed=5).equal(mixed(bucketing(), rows, seed=5))
    pairs = Counter(int(2 * mixed(bucketing(), rows, seed=s)[0].item()) for s in range(600))
    assert set(pairs) == {3, 5, 6, 9, 10, 12}
    assert min(pairs.values()) > 60  # 100 expected, standard deviation 9


def test_all_channels_have_the_same_buckets():
    strategy = compose(bucketing(), median(), scaffold())
    rows = drawn(7, 5, seed=6)
    one, other = (aggregate(strategy, rows, channel=c, seed=8) for c in (PARAMS, "control"))
    assert one.equal(other)


def test_without_a_rule_buckets_are_averaged():
    each = [update(k, float(k), examples=k + 1) for k in range(4)]
    assert points(compose(bucketing()), vec(0), each) == [[1.5]]


def test_krum_chooses_among_mixed_updates():
    # Four of 2.75 and one of 7.75.
    rows = matrix([0], [1], [3], [7], [20])
    assert aggregate(compose(nnm(f=1), krum(f=1)), rows).tolist() == [2.75]
    assert aggregate(compose(krum(f=1), nnm(f=1)), rows).tolist() == [2.75]


def test_rfa_sees_buckets_that_weigh_the_same():
    # One bucket is the plain mean, whoever has how many examples.
    strategy = compose(bucketing(s=3), rfa())
    each = [update(0, 3.0, examples=100), update(1, 6.0), update(2, 9.0)]
    assert points(strategy, vec(0), each) == [[6.0]]


def test_mixers_run_in_the_order_of_composition():
    rows = matrix([0], [1], [3], [7], [20])
    first = compose(nnm(f=2), bucketing(s=5), median())
    torch.testing.assert_close(aggregate(first, rows), mixed(nnm(f=2), rows).mean(dim=0))
    with pytest.raises(CompositionError, match="nnm with f = 2 needs at least 5 updates, and 1"):
        aggregate(compose(bucketing(s=5), nnm(f=2), median()), rows)


@pytest.mark.parametrize(
    ("make", "knobs", "message"),
    [
        (nnm, {"f": -1}, "f = -1"),
        (nnm, {"fraction": 0.5}, "fraction = 0.5"),
        (bucketing, {"s": 0}, "s = 0 must be a whole number of at least 1"),
    ],
)
def test_what_is_out_of_range_is_named(make, knobs, message):
    with pytest.raises(CompositionError, match=message):
        make(**knobs)
