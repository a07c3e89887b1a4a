"""A picture for a terminal: ten clients, their sizes and their label mixes."""

import numpy as np
import pytest
import torch

from roundel.core.data import Examples, InMemoryPopulation
from roundel.simulations.partitions.own import Elsewhere
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.report import PartitionReport, describe
from roundel.simulations.partitions.skew import FeatureSkew
from roundel.simulations.partitions.terminal import picture_text
from roundel.simulations.population import PartitionedPopulation


def report_of(owner: np.ndarray, targets: torch.Tensor, **more: FeatureSkew) -> PartitionReport:
    pool = Examples(torch.zeros(len(owner), 4), targets)
    partition = Partition.of(owner, int(owner.max()) + 1, "iid")
    return describe(PartitionedPopulation(pool=pool, partition=partition, **more), 0)


def test_a_small_federation_is_drawn_by_hand():
    """Client 1 has eight examples: four of class 0, three of class 1, one of class 12."""
    owner = np.array([0, 0, 0, 0, *[1] * 8])
    targets = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 12])
    assert picture_text(report_of(owner, targets), 60).splitlines() == [
        "iid: 2 clients, 12 examples",
        " client  examples                    class   0  1 12",
        "      0         4 ████████████                  █",
        "      1         8 ████████████████████████   ▄  ▃  ▁",
        "Examples a client: 4 to 8, median 6, mean 6 ± 2. Distance of",
        "a client's labels from those of all: mean 0.31, for 80%",
        "within 0.23 to 0.40 (0 the same, 1 disjoint).",
    ]


def test_ten_of_many_clients_are_drawn_from_the_smallest_to_the_largest():
    text = picture_text(report_of(np.repeat(np.arange(19), np.arange(19)), torch.rand(171)), 80)
    clients = [int(line.split()[0]) for line in text.splitlines()[2:12]]
    assert clients == list(range(0, 19, 2))


@pytest.mark.parametrize("width", [30, 50, 80, 200])
@pytest.mark.parametrize("classes", [1, 10, 62, 300])
def test_it_fits_into_sixteen_lines_of_the_width(width, classes):
    labels = torch.arange(12_000) % classes
    skew = FeatureSkew(noise=0.5, rotations=4)
    text = picture_text(report_of(np.arange(12_000) % 1000, labels, skew=skew), width)
    assert len(text.splitlines()) <= 16
    assert max(map(len, text.splitlines())) <= width


def test_classes_that_do_not_fit_are_not_passed_over_in_silence():
    report = report_of(np.zeros(62, dtype=np.int64), torch.arange(62))
    head, line = picture_text(report, 50).splitlines()[1:3]
    assert head.split() == ["client", "examples", "class", "0", "to", "24"]
    assert line.endswith(" " + "▁" * 25)


def test_without_labels_there_are_bars_alone():
    text = picture_text(report_of(np.array([0, 1, 1]), torch.rand(3)), 80)
    assert text.splitlines()[1:4] == [
        " client  examples",
        "      0         1 ████████████",
        "      1         2 ████████████████████████",
    ]


def test_clients_without_examples_and_no_clients_at_all_can_be_drawn():
    empty = Examples(torch.zeros(0, 1), torch.zeros(0))
    lines = picture_text(describe(InMemoryPopulation.of([empty]), 0), 80).splitlines()
    assert lines[2] == "      0         0"
    assert picture_text(describe(InMemoryPopulation.of([]), 0), 80).startswith("on demand: 0 cl")


def test_where_nothing_is_known_nothing_is_drawn():
    own = describe(Elsewhere(3), 0)
    assert picture_text(own, 80) == "own: 3 clients, each with examples that it brings itself"
