"""A partition is a permutation cut into pieces, each piece divided into three parts."""

import hashlib
import struct

import numpy as np
import pytest
import torch

from roundel.core.data import Examples, split
from roundel.core.errors import DataError
from roundel.simulations.partitions.partition import TEST, TRAIN, VALIDATION, Partition, grouped

BY_HAND = Partition.of(np.array([1, 0, 3, 1, 0, 1]), 4)
"""Client 0 has rows 1 and 4, client 1 has 0, 3 and 5, client 2 has none, client 3 has row 2."""


def test_rows_of_a_client_are_ascending():
    assert BY_HAND.rows(0).tolist() == [1, 4]
    assert BY_HAND.rows(1).tolist() == [0, 3, 5]
    assert BY_HAND.rows(2).tolist() == []
    assert BY_HAND.rows(3).tolist() == [2]


def test_a_partition_is_a_permutation_cut_into_pieces():
    assert BY_HAND.order.tolist() == [1, 4, 0, 3, 5, 2]
    assert BY_HAND.offsets.tolist() == [0, 2, 5, 5, 6]
    assert BY_HAND.sizes.tolist() == [2, 3, 0, 1]
    assert BY_HAND.owners.tolist() == [0, 0, 1, 1, 1, 3]
    assert (BY_HAND.clients, BY_HAND.examples) == (4, 6)
    assert BY_HAND.order.dtype == BY_HAND.offsets.dtype == np.int64
    assert BY_HAND.kind == "given"


@pytest.mark.parametrize("client", [-1, 4])
def test_a_client_that_does_not_exist_is_an_error_with_the_numbers_there_are(client):
    for ask in (BY_HAND.rows, BY_HAND.parts_of):
        with pytest.raises(DataError, match=f"no client {client}: the partition has 4, numbered"):
            ask(client)


def test_all_examples_are_for_training_until_some_are_held_out():
    assert BY_HAND.parts.tolist() == [TRAIN] * 6
    assert BY_HAND.parts.dtype == np.uint8


def test_the_hash_covers_offsets_and_order_as_little_endian_integers_and_the_parts():
    content = struct.pack("<5q", 0, 2, 5, 5, 6) + struct.pack("<6q", 1, 4, 0, 3, 5, 2) + bytes(6)
    assert BY_HAND.sha256 == hashlib.sha256(content).hexdigest()


def test_moving_one_example_changes_the_hash():
    assert Partition.of(np.array([1, 0, 3, 1, 0, 2]), 4).sha256 != BY_HAND.sha256


def test_holding_out_one_example_changes_the_hash():
    assert BY_HAND.holding_out(validation=0, test=0.4, seed=0).sha256 != BY_HAND.sha256


def test_label_histograms_count_classes_by_client():
    histograms = BY_HAND.label_histograms(torch.tensor([2, 0, 0, 2, 1, 0]))
    assert histograms.tolist() == [[1, 1, 0], [1, 0, 2], [0, 0, 0], [1, 0, 0]]


def test_grouping_is_a_stable_sort():
    assert grouped(np.array([2, 0, 2, 1, 0])).tolist() == [1, 4, 3, 0, 2]
    assert grouped(np.array([], dtype=np.int64)).tolist() == []


# ---- parts

SIZES = [0, 1, 5, 10, 29, 100]
UNEVEN = Partition.of(np.repeat(np.arange(6), SIZES), 6)


def counts(partition: Partition, part: int) -> list[int]:
    return [int((partition.parts_of(k) == part).sum()) for k in range(partition.clients)]


def test_each_client_holds_out_the_fractions_rounded_down():
    parts = UNEVEN.holding_out(validation=0.25, test=0.1, seed=0)
    assert counts(parts, VALIDATION) == [0, 0, 1, 2, 7, 25]
    assert counts(parts, TEST) == [0, 0, 0, 1, 2, 10]
    assert counts(parts, TRAIN) == [0, 1, 4, 7, 20, 65]


def test_who_has_what_stays_as_it_was():
    parts = UNEVEN.holding_out(validation=0.25, test=0.1, seed=0)
    assert parts.order is UNEVEN.order
    assert parts.offsets is UNEVEN.offsets


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.3, 0.7 - 1e-3), (0.29, 0.07)])
def test_the_counts_are_those_of_a_nodes_own_data(validation, test):
    """0.29 * 100 is 28.999999999999996 in floats, and 29 examples are meant."""
    parts = UNEVEN.holding_out(validation=validation, test=test, seed=0)
    for client, size in enumerate(SIZES):
        own = split(
            Examples(torch.zeros(size, 1), torch.zeros(size)),
            validation=validation,
            test=test,
            generator=torch.Generator(),
        )
        assert counts(parts, VALIDATION)[client] == len(own.validation)
        assert counts(parts, TEST)[client] == len(own.test)


def test_the_seed_decides_which_examples_are_held_out():
    one, same, other = (UNEVEN.holding_out(validation=0, test=0.5, seed=s) for s in (1, 1, 2))
    assert one.parts.tolist() == same.parts.tolist()
    assert one.parts.tolist() != other.parts.tolist()


def test_clients_of_equal_size_hold_out_different_places():
    parts = Partition.of(np.arange(100) // 25, 4).holding_out(validation=0.2, test=0, seed=0)
    assert len({tuple(parts.parts_of(k)) for k in range(4)}) == 4


def test_every_place_is_as_likely_to_be_held_out():
    """10,000 clients hold out 2 of their 5 examples: each place 4,000 times, give or take 49."""
    parts = Partition.of(np.arange(50_000) // 5, 10_000).holding_out(validation=0, test=0.4, seed=0)
    held = (parts.parts.reshape(10_000, 5) == TEST).sum(axis=0)
    assert held.tolist() == pytest.approx([4000] * 5, abs=250)
