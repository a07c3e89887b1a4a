"""The names of a broadcast's tensors."""

import torch

from roundel.core.broadcast import broadcast_tensors, channels_of


def test_channels_come_back_by_their_names_whatever_they_are_called():
    params, integers, other = torch.ones(2), torch.tensor([3]), torch.zeros(1)
    named = broadcast_tensors(params, integers, {"params": other})
    assert list(named) == ["params", "integers", "channel/params"]
    assert named["params"] is params
    assert named["integers"] is integers
    assert channels_of(named) == {"params": other}
