"""The small LeNet has the parameters that its users state."""

import pytest
import torch

from roundel.simulations.tasks.lenet import small_lenet


@pytest.mark.parametrize(("channels", "side", "parameters"), [(1, 28, 44_426), (3, 32, 62_006)])
def test_it_scores_images_with_so_many_parameters(channels, side, parameters):
    model = small_lenet(channels, side, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)
