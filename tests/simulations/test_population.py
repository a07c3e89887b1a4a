"""A population over one pool hands out each client's own examples, always the same."""

from itertools import chain

import numpy as np
import pytest
import torch

from roundel.core.config import PartitionConfig
from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions import make_partition
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.skew import FeatureSkew
from roundel.simulations.population import PartitionedPopulation

POOL = Examples(torch.arange(100.0).reshape(100, 1), torch.arange(100))


def population(pool: Examples = POOL, seed: int = 0, **settings: object) -> PartitionedPopulation:
    config = {"kind": "iid", "clients": 4, "validation": 0.2, "test": 0.1, "min_examples": 0}
    return PartitionedPopulation.of(PartitionConfig.model_validate(config | settings), pool, seed)


def rows(data: ClientData) -> list[list[int]]:
    return [part.targets.tolist() for part in (data.train, data.validation, data.test)]


def test_a_client_gets_the_rows_that_the_partition_gives_it():
    partition = Partition.of(np.array([1, 0] * 50), 2)
    data = PartitionedPopulation(pool=POOL, partition=partition).client(0)
    assert rows(data) == [list(range(1, 100, 2)), [], []]
    assert data.train.inputs.flatten().tolist() == list(range(1, 100, 2))


def test_a_client_holds_out_the_fractions_rounded_down():
    train, validation, test = rows(population().client(3))  # 25 examples, 0.2 and 0.1 of them
    assert (len(train), len(validation), len(test)) == (18, 5, 2)


def test_the_parts_of_all_clients_are_the_pool_and_never_overlap():
    held = [row for k in range(4) for part in rows(population().client(k)) for row in part]
    assert sorted(held) == list(range(100))


def test_inputs_stay_with_their_targets():
    for part in (population().client(1).train, population().client(1).validation):
        assert part.inputs.flatten().tolist() == part.targets.tolist()


def test_a_client_is_the_same_whenever_it_is_asked_for():
    clients = population()
    first = rows(clients.client(2))
    clients.client(1)
    assert rows(clients.client(2)) == first == rows(population().client(2))


def test_training_examples_are_counted_without_copying_them():
    partition = Partition.of(np.array([2, 0, 2, 2, 0]), 4)
    pool = POOL.take(torch.arange(5))
    assert PartitionedPopulation(pool=pool, partition=partition).train_sizes == [2, 0, 3, 0]
    clients = population(clients=7)
    assert clients.train_sizes == [len(clients.client(k).train) for k in range(7)]


def test_another_seed_holds_out_other_examples_of_the_same_client():
    users = Examples(POOL.inputs, POOL.targets, torch.arange(100) // 25)
    one, other = (
        rows(population(users, seed, kind="natural", clients=None).client(0)) for seed in (0, 1)
    )
    assert one != other
    assert sorted(chain(*one)) == sorted(chain(*other)) == list(range(25))


def test_what_a_client_gets_is_a_copy():
    population().client(0).train.inputs.zero_()
    assert POOL.inputs[1:].min() > 0


def test_a_client_may_be_empty():
    assert rows(population(clients=150).client(149)) == [[], [], []]


def test_its_size_is_that_of_the_partition():
    assert population(clients=150).size == 150


def test_a_client_that_does_not_exist_is_an_error():
    with pytest.raises(DataError, match="no client 4: the partition has 4"):
        population().client(4)


def test_a_partition_of_another_pool_is_refused():
    smaller = Examples(torch.zeros(99, 1), torch.zeros(99))
    partition = make_partition(PartitionConfig(kind="iid", clients=4), smaller, 0)
    with pytest.raises(DataError, match="divides 99 examples and the pool has 100"):
        PartitionedPopulation(pool=POOL, partition=partition)


def test_a_client_takes_its_examples_from_all_parts_with_the_same_skew():
    """Client 1 of 2 sees images turned upside down, in training as in its tests."""
    images = Examples(torch.arange(40.0).reshape(10, 4), torch.arange(10))
    plain = population(images, clients=2).client(1)
    turned = population(images, clients=2, rotations=2).client(1)
    assert rows(turned) == rows(plain)
    for part in ("train", "validation"):
        ours, theirs = getattr(turned, part), getattr(plain, part)
        assert len(ours) > 0
        assert torch.equal(ours.inputs, theirs.inputs.flip(1))


def test_noise_does_not_depend_on_what_is_held_out():
    def noisy(test: float) -> dict[int, float]:
        data = population(clients=4, noise=1.0, test=test).client(3)
        return {
            target: value
            for part in (data.train, data.validation, data.test)
            for target, value in zip(
                part.targets.tolist(), part.inputs.flatten().tolist(), strict=True
            )
        }

    assert noisy(0.1) == noisy(0.5)
    assert all(value != target for target, value in noisy(0.1).items())


def test_skew_that_the_inputs_do_not_allow_is_refused_before_any_client_is_made():
    with pytest.raises(DataError, match="turns square images"):
        population(Examples(torch.zeros(4, 3, 5), torch.zeros(4)), rotations=2)


def test_skew_is_that_of_the_experiment_with_the_data_seed():
    assert population(seed=5, noise=0.5).skew == FeatureSkew(noise=0.5, seed=5)
