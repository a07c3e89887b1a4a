"""A partition puts every example at one client, by a seed and nothing else."""

import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.config import PartitionConfig
from roundel.core.errors import DataError
from roundel.simulations.partitions import (
    MAX_CLASSES,
    Partition,
    class_numbers,
    dirichlet,
    fill_up,
    iid,
    make_partition,
)

LABELS = torch.arange(1000) % 4
"""250 examples of each of four classes."""

by_hand = Partition.of(np.array([1, 0, 3, 1, 0, 1]), 4)
"""Client 0 has rows 1 and 4, client 1 has 0, 3 and 5, client 2 has none, client 3 has row 2."""


@st.composite
def problems(draw):
    """Draw labels, a number of clients and a minimum that can be met."""
    labels = draw(st.lists(st.integers(0, 5), min_size=1, max_size=80))
    clients = draw(st.integers(1, 30))
    minimum = draw(st.integers(0, len(labels) // clients))
    return torch.tensor(labels), clients, minimum


alphas = st.sampled_from([5e-324, 1e-9, 0.05, 0.3, 1.0, 100.0, 1e9, 1.7e308])
seeds = st.integers(-(2**63), 2**63 - 1)


def test_rows_of_a_client_are_ascending():
    assert by_hand.rows(0).tolist() == [1, 4]
    assert by_hand.rows(1).tolist() == [0, 3, 5]
    assert by_hand.rows(2).tolist() == []
    assert by_hand.rows(3).tolist() == [2]


def test_a_partition_is_a_permutation_cut_into_pieces():
    assert by_hand.order.tolist() == [1, 4, 0, 3, 5, 2]
    assert by_hand.offsets.tolist() == [0, 2, 5, 5, 6]
    assert by_hand.sizes.tolist() == [2, 3, 0, 1]
    assert (by_hand.clients, by_hand.examples) == (4, 6)
    assert by_hand.order.dtype == by_hand.offsets.dtype == np.int64


@pytest.mark.parametrize("client", [-1, 4])
def test_a_client_that_does_not_exist_is_an_error_with_the_numbers_there_are(client):
    with pytest.raises(DataError, match=f"no client {client}: the partition has 4, numbered"):
        by_hand.rows(client)


def test_the_hash_covers_offsets_and_order_as_little_endian_integers():
    content = struct.pack("<5q", 0, 2, 5, 5, 6) + struct.pack("<6q", 1, 4, 0, 3, 5, 2)
    assert by_hand.sha256 == hashlib.sha256(content).hexdigest()


def test_moving_one_example_changes_the_hash():
    assert Partition.of(np.array([1, 0, 3, 1, 0, 2]), 4).sha256 != by_hand.sha256


def test_label_histograms_count_classes_by_client():
    histograms = by_hand.label_histograms(torch.tensor([2, 0, 0, 2, 1, 0]))
    assert histograms.tolist() == [[1, 1, 0], [1, 0, 2], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("sizes", "minimum", "expected"),
    [
        ([3, 1], 1, [3, 1]),
        ([7, 5, 0, 1], 2, [4, 5, 2, 2]),
        ([0, 9, 0], 3, [3, 3, 3]),
        ([4, 4, 4, 0], 1, [3, 4, 4, 1]),
        ([4, 4, 4, 0], 3, [3, 3, 3, 3]),
        ([10, 6, 0, 0], 4, [4, 4, 4, 4]),
        ([10, 6, 0, 0], 2, [6, 6, 2, 2]),
    ],
)
def test_clients_below_the_minimum_are_filled_up_by_the_largest(sizes, minimum, expected):
    assert fill_up(np.array(sizes), minimum).tolist() == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.data())
@settings(max_examples=60)
def test_filling_up_equals_taking_one_example_at_a_time(sizes, data):
    minimum = data.draw(st.integers(0, sum(sizes) // len(sizes)))
    filled = fill_up(np.array(sizes), minimum)
    while min(sizes) < minimum:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[next(k for k, size in enumerate(sizes) if size < minimum)] += 1
    assert filled.tolist() == sizes


@given(problems(), alphas, seeds)
@settings(max_examples=100)
def test_dirichlet_puts_every_example_at_one_client_and_respects_the_minimum(problem, alpha, seed):
    labels, clients, minimum = problem
    partition = dirichlet(labels, clients, alpha, minimum, seed)
    assert sorted(partition.order.tolist()) == list(range(len(labels)))
    assert partition.clients == clients
    assert partition.sizes.sum() == len(labels)
    assert partition.sizes.min() >= minimum
    assert all((np.diff(partition.rows(k)) > 0).all() for k in range(clients))


@given(problems(), seeds)
@settings(max_examples=50)
def test_iid_puts_every_example_at_one_client_and_sizes_differ_by_one_at_most(problem, seed):
    labels, clients, _ = problem
    partition = iid(labels, clients, seed)
    assert sorted(partition.order.tolist()) == list(range(len(labels)))
    assert partition.clients == clients
    assert partition.sizes.max() - partition.sizes.min() <= 1


@given(seeds)
@settings(max_examples=20)
def test_the_same_seed_gives_the_same_partition_and_another_seed_another(seed):
    other = seed ^ 1
    for draw in (lambda s: iid(LABELS, 10, s), lambda s: dirichlet(LABELS, 10, 0.3, 1, s)):
        assert draw(seed).sha256 == draw(seed).sha256
        assert draw(seed).sha256 != draw(other).sha256


def test_partitions_are_the_same_in_every_version():
    assert iid(LABELS, 10, 0).sha256[:16] == "70c109646a39a180"
    assert dirichlet(LABELS, 10, 0.3, 0, 0).sha256[:16] == "2bb280d778ff5001"
    assert dirichlet(LABELS, 10, 0.3, 60, 0).sha256[:16] == "53e1cc50a0439c3a"


@given(seeds)
@settings(max_examples=20)
def test_a_large_alpha_gives_every_client_the_mix_of_the_pool(seed):
    histograms = dirichlet(LABELS, 10, 1e9, 1, seed).label_histograms(LABELS)
    assert np.abs(histograms - 25).max() <= 1


@given(seeds)
@settings(max_examples=20)
def test_a_small_alpha_gives_each_class_to_one_client(seed):
    histograms = dirichlet(LABELS, 10, 1e-9, 0, seed).label_histograms(LABELS)
    assert histograms.max(axis=0).tolist() == [250, 250, 250, 250]


def test_shares_have_the_mean_and_the_variance_of_the_dirichlet_distribution():
    # Dir(0.5) over 4 clients: mean 1/4, variance (1/4)(3/4) / (4 * 0.5 + 1) = 1/16.
    classes, examples = 400, 200
    labels = torch.arange(classes * examples) % classes
    shares = dirichlet(labels, 4, 0.5, 0, 7).label_histograms(labels) / examples
    assert shares.mean(axis=1) == pytest.approx([0.25] * 4, abs=0.03)
    assert shares.var(axis=1) == pytest.approx([1 / 16] * 4, abs=0.01)


def test_no_client_is_favoured_where_classes_have_fewer_examples_than_there_are_clients():
    # Rounding always down would give clients 9, 19, ... one example of each class, others none.
    labels = torch.arange(1000) % 100
    sizes = dirichlet(labels, 100, 1e9, 0, 3).sizes
    assert sizes.sum() == 1000
    assert sizes.max() <= 25


def test_what_a_minimum_moves_is_a_random_part_of_what_the_largest_has():
    before = dirichlet(LABELS, 10, 0.3, 0, 5)
    after = dirichlet(LABELS, 10, 0.3, 80, 5)
    assert after.sizes.tolist() == fill_up(before.sizes, 80).tolist()
    for client in np.flatnonzero(before.sizes >= 80).tolist():
        assert set(after.rows(client)) <= set(before.rows(client))
    for client in np.flatnonzero(before.sizes < 80).tolist():
        assert set(after.rows(client)) >= set(before.rows(client))
    largest = before.sizes.argmax()
    kept = after.label_histograms(LABELS)[largest] / after.sizes[largest]
    had = before.label_histograms(LABELS)[largest] / before.sizes[largest]
    assert kept == pytest.approx(had, abs=0.1)


def test_classes_that_no_example_has_are_passed_over():
    labels = torch.tensor([7, 100_000, 7, 100_000])
    assert sorted(dirichlet(labels, 2, 1.0, 2, 0).order.tolist()) == [0, 1, 2, 3]


def test_a_hundred_thousand_clients_can_be_empty():
    partition = dirichlet(LABELS, 100_000, 0.3, 0, 0)
    assert partition.sizes.sum() == 1000
    assert partition.rows(99_999).dtype == np.int64


def test_too_few_examples_for_the_minimum_is_an_error_with_the_figures():
    sentence = "clients = 101 with partition.min_examples = 10 need 1010 examples and .* has 1000"
    with pytest.raises(DataError, match=sentence):
        dirichlet(LABELS, 101, 0.3, 10, 0)
    for kind in ("iid", "dirichlet"):
        config = PartitionConfig(kind=kind, clients=101, min_examples=10)
        with pytest.raises(DataError, match=sentence):
            make_partition(config, LABELS, 0)


def test_make_partition_follows_the_configuration():
    config = PartitionConfig(kind="dirichlet", clients=7, alpha=0.2, min_examples=3)
    assert make_partition(config, LABELS, 4).sha256 == dirichlet(LABELS, 7, 0.2, 3, 4).sha256
    config = PartitionConfig(kind="iid", clients=7)
    assert make_partition(config, LABELS, 4).sha256 == iid(LABELS, 7, 4).sha256


def test_regression_targets_can_be_dealt_out_evenly_and_not_by_class():
    targets = torch.rand(10, 2)
    assert iid(targets, 5, 0).sizes.tolist() == [2, 2, 2, 2, 2]
    with pytest.raises(DataError, match=r"torch.float32 and shape \(10, 2\) are not class numbers"):
        dirichlet(targets, 5, 0.3, 1, 0)


@pytest.mark.parametrize("label", [-1, MAX_CLASSES])
def test_a_label_out_of_range_is_named_with_its_example(label):
    with pytest.raises(DataError, match=f"example 2 has the label {label}, which is not a class"):
        class_numbers(torch.tensor([0, 1, label]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_class_numbers_may_have_any_integer_dtype(dtype):
    numbers = class_numbers(torch.tensor([1, 0, 1], dtype=dtype))
    assert numbers.tolist() == [1, 0, 1]
    assert numbers.dtype == np.int64
