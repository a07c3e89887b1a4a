"""Label skew by a number of classes: shards of sorted examples, and classes outright."""

import pytest
import torch

from roundel.core.errors import DataError
from roundel.simulations.partitions.classes import classes, shards

LABELS = torch.arange(1000) % 10
"""100 examples of each of ten classes."""


def classes_of_clients(partition, labels=LABELS) -> list[int]:
    return (partition.label_histograms(labels) > 0).sum(axis=1).tolist()


# ---- shards


def test_shards_that_fit_into_classes_hold_one_class_each():
    """20 clients with 2 shards: 40 shards of 25, four a class."""
    partition = shards(LABELS, 20, 2, 1, 0)
    assert partition.sizes.tolist() == [50] * 20
    histograms = partition.label_histograms(LABELS)
    assert set(histograms.ravel().tolist()) <= {0, 25, 50}
    assert set(classes_of_clients(partition)) == {1, 2}


def test_a_shard_across_the_border_of_two_classes_holds_both():
    """Two shards of three from four examples of class 0 and two of class 1."""
    labels = torch.tensor([0, 1, 0, 0, 1, 0])
    histograms = shards(labels, 2, 1, 1, 0).label_histograms(labels)
    assert sorted(histograms.tolist()) == [[1, 2], [3, 0]]


def test_sizes_of_shards_differ_by_one_at_most():
    assert sorted(shards(torch.arange(11) % 2, 4, 1, 1, 0).sizes.tolist()) == [2, 3, 3, 3]


def test_which_examples_of_a_class_share_a_shard_is_drawn():
    rows = {tuple(shards(torch.zeros(10).long(), 2, 1, 1, s).rows(0)) for s in range(5)}
    assert len(rows) == 5


def test_shards_that_may_leave_a_client_without_examples_are_refused():
    with pytest.raises(
        DataError, match=r"shards = 3 for 400 clients cuts 1000 examples into 1200 shards of 0 or"
    ):
        shards(LABELS, 400, 3, 1, 0)
    assert shards(LABELS, 400, 3, 0, 0).sizes.sum() == 1000


# ---- classes


@pytest.mark.parametrize("each", [1, 2, 3, 10])
def test_every_client_has_exactly_so_many_classes(each):
    assert classes_of_clients(classes(LABELS, 15, each, 1, 0)) == [each] * 15


def test_a_class_is_divided_evenly_over_the_clients_that_have_it():
    histograms = classes(LABELS, 23, 3, 1, 0).label_histograms(LABELS)
    for column in histograms.T:
        held = column[column > 0]
        assert held.sum() == 100
        assert held.max() - held.min() <= 1


def test_with_all_classes_everyone_has_the_mix_of_the_pool():
    assert classes(LABELS, 10, 10, 1, 0).label_histograms(LABELS).tolist() == [[10] * 10] * 10


def test_fewer_clients_than_classes_share_all_of_them():
    partition = classes(LABELS, 4, 3, 1, 0)
    assert partition.sizes.sum() == 1000
    assert classes_of_clients(partition) == [3] * 4


def test_classes_beyond_the_first_are_drawn():
    histograms = [classes(LABELS, 10, 2, 1, s).label_histograms(LABELS) > 0 for s in range(5)]
    assert len({h.tobytes() for h in histograms}) == 5


@pytest.mark.parametrize(("clients", "each", "remedy"), [(20, 11, "lower"), (4, 2, "raise")])
def test_classes_that_clients_cannot_share_are_refused_with_the_remedy(clients, each, remedy):
    with pytest.raises(
        DataError,
        match=f"{clients} clients of partition.classes = {each} cannot share the 10.*; {remedy} pa",
    ):
        classes(LABELS, clients, each, 1, 0)


def test_a_class_with_too_few_examples_for_its_clients_is_an_error_unless_some_may_be_empty():
    labels = torch.cat([torch.zeros(98), torch.ones(2)]).long()
    with pytest.raises(
        DataError, match=r"client \d+ would get 0 examples, less than .* = 1, since"
    ):
        classes(labels, 10, 1, 1, 0)
    assert classes(labels, 10, 1, 0, 0).sizes.min() == 0
