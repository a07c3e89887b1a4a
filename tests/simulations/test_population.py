"""A population over one pool hands out each client's own examples, always the same."""

from itertools import chain

import numpy as np
import pytest
import torch

from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions import Partition, iid
from roundel.simulations.population import PartitionedPopulation

POOL = Examples(torch.arange(100.0).reshape(100, 1), torch.arange(100))


def population(seed=0, validation=0.2, test=0.1, clients=4):
    partition = iid(POOL.targets, clients, 0)
    return PartitionedPopulation(
        pool=POOL, partition=partition, validation=validation, test=test, seed=seed
    )


def rows(data: ClientData) -> list[list[int]]:
    return [part.targets.tolist() for part in (data.train, data.validation, data.test)]


def test_a_client_gets_the_rows_that_the_partition_gives_it():
    partition = Partition.of(np.array([1, 0] * 50), 2)
    data = PartitionedPopulation(
        pool=POOL, partition=partition, validation=0.0, test=0.0, seed=0
    ).client(0)
    assert rows(data) == [list(range(1, 100, 2)), [], []]
    assert data.train.inputs.flatten().tolist() == list(range(1, 100, 2))


def test_a_client_holds_out_the_fractions_rounded_down():
    train, validation, test = rows(population().client(3))  # 25 examples, 0.2 and 0.1 of them
    assert (len(train), len(validation), len(test)) == (18, 5, 2)


def test_the_parts_of_all_clients_are_the_pool_and_never_overlap():
    held = [row for k in range(4) for part in rows(population().client(k)) for row in part]
    assert sorted(held) == list(range(100))


def test_a_client_is_the_same_whenever_it_is_asked_for():
    clients = population()
    first = rows(clients.client(2))
    clients.client(1)
    assert rows(clients.client(2)) == first == rows(population().client(2))


def test_another_seed_holds_out_other_examples_of_the_same_client():
    one, other = rows(population(seed=0).client(0)), rows(population(seed=1).client(0))
    assert one != other
    assert sorted(chain(*one)) == sorted(chain(*other))


def test_clients_of_equal_size_hold_out_different_places():
    """Each client's split has its own seed; with one for all, the same places would be held out."""
    partition = Partition.of(np.arange(100) // 25, 4)
    clients = PartitionedPopulation(
        pool=POOL, partition=partition, validation=0.2, test=0.0, seed=0
    )
    places = {tuple(row - 25 * k for row in rows(clients.client(k))[1]) for k in range(4)}
    assert len(places) == 4


def test_a_client_may_be_empty():
    assert rows(population(clients=150).client(149)) == [[], [], []]


def test_its_size_is_that_of_the_partition():
    assert population(clients=150).size == 150


def test_a_client_that_does_not_exist_is_an_error():
    with pytest.raises(DataError, match="no client 4: the partition has 4"):
        population().client(4)


def test_a_partition_of_another_pool_is_refused():
    partition = iid(torch.zeros(99), 4, 0)
    with pytest.raises(DataError, match="divides 99 examples and the pool has 100"):
        PartitionedPopulation(pool=POOL, partition=partition, validation=0.0, test=0.1, seed=0)
