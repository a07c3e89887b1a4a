"""Clients are drawn when they are asked for."""

import numpy as np
import pytest
import torch

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.simulations.tasks.generated import (
    GeneratedClients,
    Sizes,
    gaussian,
    labelled,
    logistic,
)


def counted(number: int) -> Examples:
    rows = torch.arange(number)
    return Examples(rows[:, None].float(), rows)


@pytest.mark.parametrize(("examples", "train"), [(50, 45), (51, 45), (5, 4), (1, 0)])
def test_nine_tenths_rounded_down_are_to_train_on_and_the_rest_to_test_on(examples, train):
    data = GeneratedClients(size=1, draw=lambda _client: counted(examples)).client(0)
    assert data.train.targets.tolist() == list(range(train))
    assert data.test.targets.tolist() == list(range(train, examples))
    assert data.validation.inputs.shape == (0, 1)


def test_only_the_client_that_is_asked_for_is_drawn():
    asked = []
    population = GeneratedClients(size=10**6, draw=lambda k: asked.append(k) or counted(10))
    population.client(999_999)
    assert asked == [999_999]


@pytest.mark.parametrize("client", [-1, 3])
def test_a_client_that_does_not_exist_is_an_error(client):
    population = GeneratedClients(size=3, draw=lambda _client: counted(1))
    with pytest.raises(DataError, match=rf"no client {client}: the population has 3"):
        population.client(client)


def test_sizes_are_log_normal_above_the_least_and_capped():
    rng = np.random.default_rng(0)
    sizes = np.array([Sizes(mean=3, sigma=1, least=5, most=60).draw(rng) for _ in range(20_000)])
    assert (sizes.min(), sizes.max()) == (5, 60)
    # Quartiles of the normal distribution are 0.6745 away: e^2.3255 = 10.2, e^3 = 20.1, e^3.6745
    # = 39.4; and P(Z >= ln 55 - 3) = 0.157.
    assert np.quantile(sizes, [0.25, 0.5, 0.75]) == pytest.approx([15, 25, 44], abs=1)
    assert (sizes == 60).mean() == pytest.approx(0.157, abs=0.01)


def test_inputs_lie_around_their_centre_with_falling_variances():
    centre = np.array([3.0, -1.0, 0.0])
    inputs = gaussian(np.random.default_rng(0), 50_000, centre)
    assert inputs.mean(axis=0) == pytest.approx(centre, abs=0.02)
    assert inputs.var(axis=0) == pytest.approx([1, 2**-1.2, 3**-1.2], rel=0.03)


def test_the_label_is_the_class_of_the_highest_score():
    examples = labelled(np.array([[1.0], [2.0]]), np.array([[0.0, 5.0, 1.0], [2.0, -1.0, 0.0]]))
    assert examples.targets.tolist() == [1, 0]
    assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, torch.int64)
    assert examples.inputs.tolist() == [[1.0], [2.0]]


def test_a_logistic_regression_starts_from_zero():
    model = logistic(4, 3)
    assert model(torch.ones(2, 4)).tolist() == [[0.0] * 3] * 2
    assert sum(p.numel() for p in model.parameters()) == 15
