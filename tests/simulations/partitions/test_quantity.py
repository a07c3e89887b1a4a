"""Divisions that do not look at labels: even sizes, log-normal ones, and those of a power law."""

import numpy as np
import pytest

from roundel.core.errors import DataError
from roundel.simulations.partitions.quantity import iid, lognormal, power_law


def test_examples_that_do_not_divide_evenly_go_to_the_first_clients():
    assert iid(11, 4, 0).sizes.tolist() == [3, 3, 3, 2]


def test_more_clients_than_examples_leave_some_empty():
    assert iid(3, 5, 0).sizes.tolist() == [1, 1, 1, 0, 0]


def test_the_logarithms_of_sizes_have_the_standard_deviation_that_is_asked_for():
    sizes = lognormal(200_000, 1000, 0.8, 1, 0).sizes
    assert np.log(sizes).std() == pytest.approx(0.8, abs=0.03)


def test_sizes_fall_with_the_rank_by_the_power_that_is_asked_for():
    # 1 + 1/2 + 1/3 + 1/4 = 25/12, so the shares of 2,500 examples are 1200, 600, 400 and 300.
    assert sorted(power_law(2500, 4, 1.0, 1, 0).sizes.tolist()) == [300, 400, 600, 1200]


def test_ranks_are_dealt_to_clients_at_random():
    assert len({power_law(2500, 4, 1.0, 1, seed).sizes.argmax() for seed in range(20)}) == 4


def test_a_client_below_the_minimum_is_filled_up_by_the_largest():
    assert sorted(power_law(2500, 4, 1.0, 500, 0).sizes.tolist()) == [500, 500, 600, 900]


@pytest.mark.parametrize("kind", [lognormal, power_law])
def test_without_skew_sizes_differ_by_one_at_most(kind):
    sizes = kind(1001, 10, 5e-324, 1, 0).sizes
    assert sizes.max() - sizes.min() == 1


@pytest.mark.parametrize("kind", [lognormal, power_law])
def test_the_largest_skew_gives_one_client_everything_above_the_minimum(kind):
    sizes = kind(1000, 10, 1.7e308, 3, 0).sizes
    assert sorted(sizes.tolist()) == [3] * 9 + [973]


@pytest.mark.parametrize("kind", [lognormal, power_law])
def test_too_few_examples_for_the_minimum_is_an_error(kind):
    with pytest.raises(DataError, match="need 20 examples and the pool has 19"):
        kind(19, 10, 1.0, 2, 0)


@pytest.mark.parametrize("kind", [lognormal, power_law])
def test_a_client_gets_its_examples_from_the_whole_pool(kind):
    """Were they neighbours, the mean row of the largest client would be near one end."""
    partition = kind(10_000, 10, 1.0, 1, 0)
    rows = partition.rows(int(partition.sizes.argmax()))
    assert rows.mean() == pytest.approx(5000, abs=300)
