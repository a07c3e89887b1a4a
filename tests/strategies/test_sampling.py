"""Drawing clients: every outcome as likely as it should be, at a cost that follows the draw."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations, islice, permutations
from math import comb
from typing import Any

import pytest

from roundel.core.seeds import derive, sample
from roundel.strategies.sampling import UNIFORM, by_weight, each_by_chance, in_random_order
from roundel.strategies.sites import Selection

DRAWS = 2000

# Chi-square values that are exceeded once in ten thousand times, by degrees of freedom.
LIMITS = {2: 18.42, 4: 23.51, 5: 25.74, 9: 33.72, 23: 54.08}


def seeds() -> Iterable[int]:
    return (derive(0, "a test of draws", k) for k in range(DRAWS))


def check_likely(outcomes: Iterable[Any], expected: Mapping[Any, float]) -> None:
    """Hold counts of outcomes against their probabilities."""
    counts = Counter(outcomes)
    assert counts.keys() <= expected.keys()
    total = sum(counts.values())
    parts = [(counts[o] - total * p) ** 2 / (total * p) for o, p in expected.items()]
    assert sum(parts) < LIMITS[len(expected) - 1]


def chosen(population: int, size: int, seed: int = 1) -> list[int]:
    selection = Selection(round=1, population=population, size=size, seed=seed)
    return list(UNIFORM.select(selection))


@pytest.mark.parametrize(("population", "size"), [(10, 3), (10, 10), (1, 1), (10**9, 5)])
def test_a_uniform_cohort_is_of_the_size_asked_for_distinct_sorted_and_in_range(population, size):
    cohort = chosen(population, size)
    assert len(cohort) == len(set(cohort)) == size
    assert cohort == sorted(cohort)
    assert min(cohort) >= 0
    assert max(cohort) < population


def test_every_pair_of_clients_is_equally_likely_in_a_uniform_cohort():
    pairs = list(combinations(range(4), 2))
    check_likely((tuple(chosen(4, 2, s)) for s in seeds()), dict.fromkeys(pairs, 1 / 6))


# ---- in random order


def test_every_order_is_equally_likely():
    orders = list(permutations(range(4)))
    check_likely((tuple(in_random_order(4, s)) for s in seeds()), dict.fromkeys(orders, 1 / 24))


@pytest.mark.parametrize(("population", "size"), [(1, 1), (7, 7), (7, 3), (10**9, 20)])
def test_the_first_of_a_random_order_are_a_sample(population, size):
    first = list(islice(in_random_order(population, 5), size))
    assert sorted(first) == sample(population, size, 5)


# ---- each by its own chance


def test_the_size_has_the_binomial_distribution():
    # 5 or more of 50 with probability 0.04 happen in 0.0490 of all draws.
    binomial = [comb(50, k) * 0.04**k * 0.96 ** (50 - k) for k in range(5)]
    expected = dict(enumerate([*binomial, 1 - sum(binomial)]))
    check_likely((min(5, len(each_by_chance(50, 0.04, s))) for s in seeds()), expected)


def test_every_set_is_as_likely_as_its_coins():
    # Whether 0 and 2 of three are in it: 0.3 each, independently.
    expected = {
        (first, last): (0.3 if first else 0.7) * (0.3 if last else 0.7)
        for first in (True, False)
        for last in (True, False)
    }
    drawn = (each_by_chance(3, 0.3, s) for s in seeds())
    counts = Counter((0 in cohort, 2 in cohort) for cohort in drawn)
    for outcome, probability in expected.items():
        # The standard deviation of such a count is at most 22.4.
        assert abs(counts[outcome] - DRAWS * probability) < 90


def test_each_number_comes_at_most_once_and_in_order():
    for seed in (1, 2, 3):
        drawn = each_by_chance(1000, 0.3, seed)
        assert drawn == sorted(set(drawn))
        assert 0 <= drawn[0] <= drawn[-1] < 1000


def test_certainty_takes_everybody_and_a_small_chance_often_nobody():
    assert each_by_chance(5, 1.0, 3) == [0, 1, 2, 3, 4]
    empty = sum(not each_by_chance(10, 0.01, s) for s in seeds())
    assert abs(empty - DRAWS * 0.99**10) < 60  # 1809, with a standard deviation of 13


def test_a_billion_coins_cost_what_comes_up():
    drawn = each_by_chance(10**9, 1e-7, 8)
    assert 50 < len(drawn) < 150
    assert drawn[-1] > 9 * 10**8


# ---- by weight


def test_pairs_come_as_draws_one_after_another_by_the_weights_left_make_them():
    # Of weights 1, 2, 3: first 0 then 1 is 1/6 * 2/5, first 1 then 0 is 2/6 * 1/4, and so on.
    expected = {(0, 1): 3 / 20, (0, 2): 4 / 15, (1, 2): 7 / 12}
    check_likely((tuple(by_weight([1, 2, 3], 2, s)) for s in seeds()), expected)


def test_one_is_drawn_in_proportion_to_its_weight():
    expected = {(0,): 0.1, (2,): 0.3, (3,): 0.6}
    check_likely((tuple(by_weight([10, 0, 30, 60], 1, s)) for s in seeds()), expected)


def test_a_weight_of_zero_is_never_drawn_even_if_too_few_are_left():
    assert by_weight([0, 5, 0, 1], 3, 1) == [1, 3]
    assert by_weight([0, 0], 1, 1) == []


def test_the_same_seed_draws_the_same():
    weights = list(range(1, 200))
    assert by_weight(weights, 10, 4) == by_weight(weights, 10, 4) != by_weight(weights, 10, 5)
    assert each_by_chance(200, 0.1, 4) == each_by_chance(200, 0.1, 4) != each_by_chance(200, 0.1, 5)
