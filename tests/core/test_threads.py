"""Torch's threads inside an operation."""

from contextlib import suppress

import torch

from roundel.core.threads import intra_op_threads


def test_they_are_put_back_whatever_happens():
    before = torch.get_num_threads()
    with suppress(KeyError), intra_op_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
