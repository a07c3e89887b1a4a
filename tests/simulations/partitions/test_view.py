"""What a picture shows: not more clients and classes than can be told apart."""

import numpy as np
import torch

from roundel.simulations.partitions import view
from roundel.simulations.partitions.holdings import Holdings
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.view import evenly, view_of


def of(owner: np.ndarray, clients: int, labels: np.ndarray | None = None) -> view.View:
    targets = torch.rand(len(owner)) if labels is None else torch.from_numpy(labels)
    return view_of(Holdings.of_partition(Partition.of(owner, clients), targets))


def test_places_are_spread_from_the_first_to_the_last():
    assert evenly(9, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(0, 5).tolist() == []


def test_up_to_a_hundred_clients_are_all_shown_in_their_order():
    shown = of(np.array([2, 0, 2]), 3)
    assert shown.clients.tolist() == [0, 1, 2]
    assert shown.sizes.tolist() == [[1, 0, 0], [0, 0, 0], [2, 0, 0]]
    assert not shown.chosen


def test_of_more_clients_those_are_shown_that_lie_evenly_between_smallest_and_largest():
    """Client k of 199 has k examples: from none to 198 in steps of two."""
    shown = of(np.repeat(np.arange(199), np.arange(199)), 199)
    assert shown.chosen
    assert shown.clients.tolist() == list(range(0, 199, 2))
    assert shown.sizes[:, 0].tolist() == list(range(0, 199, 2))


def test_the_mix_is_the_share_of_each_class_that_occurs():
    shown = of(np.array([0, 0, 0, 0, 2]), 3, np.array([5, 5, 5, 1, 1]))
    assert shown.classes == ["1", "5"]
    assert shown.mix.tolist() == [[0.25, 0.75], [0, 0], [1, 0]]


def test_without_class_numbers_there_is_no_mix():
    shown = of(np.array([0, 1]), 2)
    assert list(shown.classes) == []
    assert shown.mix.shape == (2, 0)


def test_the_rarest_of_too_many_classes_are_shown_together(monkeypatch):
    monkeypatch.setattr(view, "MOST_CLASSES", 3)
    shown = of(np.zeros(10, dtype=np.int64), 1, np.array([0, 1, 1, 1, 2, 3, 3, 3, 3, 3]))
    assert shown.classes == ["1", "3", "others"]
    assert shown.mix.tolist() == [[0.3, 0.5, 0.2]]


def test_a_view_is_thinned_by_size():
    thin = of(np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3]), 4).thin(2)
    assert thin.clients.tolist() == [1, 3]
    assert thin.chosen
    assert not of(np.array([0, 1]), 2).thin(2).chosen
