"""The two kinds that are drawn from Dirichlet distributions, and what tells them apart."""

import numpy as np
import pytest
import torch

from roundel.core.errors import DataError
from roundel.simulations.partitions.dirichlet import class_prior, dirichlet
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.sizes import fill_up

LABELS = torch.arange(1000) % 4
"""250 examples of each of four classes."""


def shares(partition: Partition, labels: torch.Tensor) -> np.ndarray:
    """Each client's mix of classes."""
    histograms = partition.label_histograms(labels)
    return histograms / histograms.sum(axis=1, keepdims=True)


def test_a_large_alpha_gives_every_client_the_mix_of_the_pool():
    assert np.abs(dirichlet(LABELS, 10, 1e9, 1, 3).label_histograms(LABELS) - 25).max() <= 1


def test_a_small_alpha_gives_each_class_to_one_client():
    histograms = dirichlet(LABELS, 10, 1e-9, 0, 3).label_histograms(LABELS)
    assert histograms.max(axis=0).tolist() == [250, 250, 250, 250]


def test_shares_of_a_class_have_the_mean_and_the_variance_of_the_dirichlet_distribution():
    # Dir(0.5) over 4 clients: mean 1/4, variance (1/4)(3/4) / (4 * 0.5 + 1) = 1/16.
    classes, examples = 400, 200
    labels = torch.arange(classes * examples) % classes
    of_classes = dirichlet(labels, 4, 0.5, 0, 7).label_histograms(labels) / examples
    assert of_classes.mean(axis=1) == pytest.approx([0.25] * 4, abs=0.03)
    assert of_classes.var(axis=1) == pytest.approx([1 / 16] * 4, abs=0.01)


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
    assert shares(after, LABELS)[largest] == pytest.approx(shares(before, LABELS)[largest], abs=0.1)


@pytest.mark.parametrize("kind", [dirichlet, class_prior])
def test_classes_that_no_example_has_are_passed_over(kind):
    labels = torch.tensor([7, 100_000, 7, 100_000])
    assert sorted(kind(labels, 2, 1.0, 2, 0).order.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [dirichlet, class_prior])
def test_too_few_examples_for_the_minimum_is_an_error(kind):
    with pytest.raises(DataError, match="need 1010 examples and the pool has 1000"):
        kind(LABELS, 101, 0.3, 10, 0)


@pytest.mark.parametrize("kind", [dirichlet, class_prior])
def test_targets_that_are_no_classes_are_an_error(kind):
    with pytest.raises(DataError, match=r"torch.float32 and shape \(10, 2\) are not class numbers"):
        kind(torch.rand(10, 2), 5, 0.3, 1, 0)


# ---- class-prior


def test_with_the_class_prior_all_clients_have_the_same_number_of_examples():
    sizes = class_prior(LABELS, 7, 0.3, 1, 0).sizes
    assert sorted(sizes.tolist()) == [142, 143, 143, 143, 143, 143, 143]


def test_who_gets_one_more_is_drawn():
    assert len({class_prior(LABELS, 7, 0.3, 1, seed).sizes.argmin() for seed in range(12)}) > 2


def test_mixes_of_clients_have_the_mean_and_the_variance_of_hsus_distribution():
    """400 clients with 100 of 400,000 examples, so that no class runs out.

    Dir(1 * (0.7, 0.3)): mean 0.7, variance 0.7 * 0.3 / (1 + 1) = 0.105; drawing 100 examples by
    such a share adds E[q (1 - q)] / 100 = 0.105 / 100.
    """
    labels = (torch.arange(400_000) % 10 >= 7).long()
    few = torch.cat([labels[:40_000], torch.full((0,), 0)])
    of_clients = shares(class_prior(few, 400, 1.0, 1, 2), few)[:, 0]
    assert of_clients.mean() == pytest.approx(0.7, abs=1e-9)
    assert of_clients.var() == pytest.approx(0.105 + 0.00105, abs=0.02)


def test_a_class_that_runs_out_is_shared_by_lot_and_the_rest_goes_to_others():
    """Every client wants one class alone; 10 of each are there, so both are emptied."""
    labels = torch.arange(20) % 2
    histograms = class_prior(labels, 4, 1e-9, 1, 0).label_histograms(labels)
    assert histograms.sum(axis=0).tolist() == [10, 10]
    assert histograms.sum(axis=1).tolist() == [5, 5, 5, 5]
    assert (histograms == 0).any()


def test_no_place_in_the_order_of_clients_is_favoured_when_classes_run_out():
    """Served one after another, the last clients would get what is left: mixes of other kinds."""
    labels = torch.arange(10_000) % 10
    largest = np.mean(
        [shares(class_prior(labels, 100, 0.3, 1, s), labels).max(axis=1) for s in range(20)], axis=0
    )
    assert largest[:20].mean() == pytest.approx(largest[-20:].mean(), abs=0.06)


def test_the_two_kinds_differ_in_sizes_at_the_same_alpha():
    assert class_prior(LABELS, 10, 0.3, 1, 0).sizes.std() == 0
    assert dirichlet(LABELS, 10, 0.3, 1, 0).sizes.std() > 10
