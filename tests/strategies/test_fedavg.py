"""Federated averaging, by hand: clients of 1 and 3 examples move by (4, 0) and (0, 8)."""

import pytest

from roundel.core.errors import CompositionError
from roundel.strategies.fedavg import fedavg
from tests.strategies.updates import points, update, vec

UPDATES = [update(0, 4, 0, examples=1), update(1, 0, 8, examples=3)]


@pytest.mark.parametrize(
    ("knobs", "point"),
    [
        ({}, [2, 7]),
        ({"weights": "examples"}, [2, 7]),
        ({"weights": "uniform"}, [3, 5]),
        ({"server_lr": 0.5}, [1.5, 4]),
        ({"server_lr": 2.0, "weights": "uniform"}, [5, 9]),
    ],
    ids=str,
)
def test_the_mean_of_the_updates_is_added(knobs, point):
    assert points(fedavg(**knobs), vec(1, 1), UPDATES) == [point]


def test_weights_are_normalised_over_the_updates_that_arrived():
    assert points(fedavg(), vec(1, 1), UPDATES[1:]) == [[1, 9]]


def test_the_size_of_the_population_does_not_matter():
    few, many = (points(fedavg(), vec(1, 1), UPDATES, population=n) for n in (2, 10**6))
    assert few == many


def test_a_server_learning_rate_out_of_range_is_refused():
    with pytest.raises(CompositionError, match=r"^server_lr = -1.0 must be a finite number above"):
        fedavg(server_lr=-1.0)


def test_its_name_is_its_own():
    assert fedavg(server_lr=0.5).name == "fedavg"
