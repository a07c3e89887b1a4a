"""The flat arrays behind the figures: who holds what."""

import numpy as np
import pytest
import torch

from roundel.core.data import ClientData, Examples
from roundel.simulations.partitions.holdings import Holdings
from roundel.simulations.partitions.partition import Partition

PARTITION = Partition.of(np.array([0, 0, 1, 1, 1, 3]), 4)


def some(*labels: float, dtype: torch.dtype = torch.int64) -> Examples:
    return Examples(torch.zeros(len(labels), 1), torch.tensor(labels, dtype=dtype))


def test_a_partition_is_seen_from_its_clients():
    held = Holdings.of_partition(PARTITION, torch.tensor([5, 4, 3, 2, 1, 0]))
    assert held.clients.tolist() == [0, 1, 2, 3]
    assert held.owner.tolist() == [0, 0, 1, 1, 1, 3]
    assert held.labels is not None
    assert held.labels.tolist() == [5, 4, 3, 2, 1, 0]
    assert held.sizes.tolist() == [2, 3, 0, 1]


def test_clients_at_hand_are_seen_part_by_part():
    data = [
        ClientData(train=some(0, 1), validation=some(), test=some(2)),
        ClientData(train=some(), validation=some(3), test=some()),
    ]
    held = Holdings.of_clients([7, 9], data)
    assert held.clients.tolist() == [7, 9]
    assert held.sizes_by_part.tolist() == [[2, 0, 1], [0, 1, 0]]
    assert held.labels is not None
    assert held.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("odd", [some(0.5, dtype=torch.float32), some(-1)])
def test_without_class_numbers_at_every_client_there_are_no_labels(odd):
    data = [ClientData(train=e, validation=some(), test=some()) for e in (some(0, 1), odd)]
    held = Holdings.of_clients([0, 1], data)
    assert held.labels is None
    assert held.sizes.tolist() == [2, 1]
    assert held.distances().tolist() == []


def test_no_clients_hold_nothing():
    held = Holdings.of_clients([], [])
    assert held.sizes.tolist() == []
    assert held.sizes_by_part.shape == (0, 3)


def test_distances_are_half_the_sum_of_the_differences_of_shares():
    """All: (3/6, 2/6, 1/6). Client 0: (1, 0, 0), client 1: (1/3, 2/3, 0), client 3: (0, 0, 1)."""
    held = Holdings.of_partition(PARTITION, torch.tensor([0, 0, 0, 1, 1, 2]))
    assert held.distances().tolist() == pytest.approx([1 / 2, 1 / 3, 5 / 6])
