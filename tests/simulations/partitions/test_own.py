"""Clients with examples of their own are divided alike at a node and in a simulation."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.config import PartitionConfig
from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions.own import Elsewhere, OwnExamples, own_partition
from roundel.simulations.partitions.partition import TEST, TRAIN, VALIDATION
from roundel.simulations.population import PartitionedPopulation


def numbered(first: int, count: int) -> Examples:
    rows = torch.arange(first, first + count)
    return Examples(rows.float().view(-1, 1), rows)


def config(clients: int, **how: float) -> PartitionConfig:
    return PartitionConfig.model_validate({"kind": "own", "clients": clients, **how})


def parts(data: ClientData) -> list[list[int]]:
    return [part.targets.tolist() for part in (data.train, data.validation, data.test)]


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    shares=st.sampled_from([(0.0, 0.1), (0.2, 0.3), (0.0, 0.0), (0.5, 0.49)]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_a_client_at_a_node_of_its_own_holds_what_it_holds_in_a_simulation(sizes, shares, seed):
    how = config(len(sizes), validation=shares[0], test=shares[1])
    partition = own_partition(sizes, how, seed)
    simulated = PartitionedPopulation(pool=numbered(0, sum(sizes)), partition=partition)
    for k, count in enumerate(sizes):
        examples = numbered(sum(sizes[:k]), count)
        node = OwnExamples(size=len(sizes), examples=examples, config=how, seed=seed)
        assert parts(node.client(k)) == parts(simulated.client(k))


def test_every_example_is_in_one_part_and_the_parts_have_the_sizes_asked_for():
    how = config(1, validation=0.2, test=0.1)
    held = OwnExamples(size=1, examples=numbered(0, 25), config=how, seed=0).client(0)
    assert [len(part) for part in parts(held)] == [18, 5, 2]
    assert sorted(chain(*parts(held))) == list(range(25))


def test_clients_with_the_same_examples_hold_out_different_ones():
    node = OwnExamples(size=2, examples=numbered(0, 50), config=config(2, test=0.2), seed=0)
    assert parts(node.client(0))[2] != parts(node.client(1))[2]
    assert parts(node.client(0)) == parts(node.client(0))


def test_the_split_depends_on_the_data_seed():
    held = [
        parts(OwnExamples(size=1, examples=numbered(0, 50), config=config(1), seed=seed).client(0))
        for seed in (0, 1)
    ]
    assert held[0] != held[1]


def test_a_simulations_partition_is_one_piece_a_client():
    partition = own_partition([3, 0, 2], config(3, test=0.5), seed=0)
    assert partition.order.tolist() == [0, 1, 2, 3, 4]
    assert partition.offsets.tolist() == [0, 3, 3, 5]
    counts = [sum(partition.parts == part) for part in (TRAIN, VALIDATION, TEST)]
    assert counts == [3, 0, 2]


def test_nobody_else_reads_the_examples_of_a_node():
    with pytest.raises(DataError, match=r"^the examples of client 2 lie at its node"):
        Elsewhere(3).client(2)
