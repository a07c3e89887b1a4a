"""The squared error adds up over examples."""

import torch

from roundel.core.goals import lower_is_better
from roundel.simulations.tasks.squared_error import squared_error


def test_each_example_counts_with_the_mean_over_its_values():
    outputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    sums = squared_error(outputs, targets)
    assert float(sums["mse"]) == (1 + 4) / 2 + 16 / 2


def test_small_is_good():
    assert all(map(lower_is_better, squared_error(torch.zeros(1, 1), torch.zeros(1, 1))))
