"""Who takes part in a round."""

from collections import Counter

import pytest

from roundel.core.seeds import derive
from roundel.strategies.selectors import UNIFORM
from roundel.strategies.sites import Selection


def chosen(population: int, size: int, seed: int = 1) -> list[int]:
    selection = Selection(round=1, population=population, size=size, seed=seed)
    return list(UNIFORM.select(selection))


@pytest.mark.parametrize(("population", "size"), [(10, 3), (10, 10), (1, 1), (10**9, 5)])
def test_a_cohort_is_of_the_size_asked_for_distinct_sorted_and_in_range(population, size):
    cohort = chosen(population, size)
    assert len(cohort) == len(set(cohort)) == size
    assert cohort == sorted(cohort)
    assert min(cohort) >= 0
    assert max(cohort) < population


def test_the_same_seed_is_the_same_cohort_and_another_one_another():
    assert chosen(1000, 10, seed=1) == chosen(1000, 10, seed=1)
    assert chosen(1000, 10, seed=1) != chosen(1000, 10, seed=2)


def test_every_pair_of_clients_is_equally_likely():
    # 6 pairs of 4 clients, 600 draws: 100 each, with a standard deviation of 9.
    counts = Counter(tuple(chosen(4, 2, derive(0, "cohort", k))) for k in range(600))
    assert len(counts) == 6
    assert all(60 < count < 140 for count in counts.values())
