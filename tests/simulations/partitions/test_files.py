"""The files that a division leaves in a run directory."""

import json

import numpy as np
import pytest
import torch

from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.errors import RunDirectoryError
from roundel.simulations.partitions.archive import load_partition
from roundel.simulations.partitions.files import is_described, write_report
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.own import Elsewhere
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.picture import picture_svg
from roundel.simulations.partitions.report import describe
from roundel.simulations.population import PartitionedPopulation

POOL = Examples(torch.zeros(6, 1), torch.arange(6) % 2)
DIVIDED = PartitionedPopulation(pool=POOL, partition=Partition.of(np.arange(6) % 3, 3))


def test_a_divided_pool_leaves_figures_picture_and_the_partition(tmp_path):
    report = describe(DIVIDED, 0)
    write_report(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "partition.json",
        "partition.npz",
        "partition.svg",
    }
    assert json.loads((tmp_path / "partition.json").read_text()) == report.line()
    assert (tmp_path / "partition.svg").read_text() == picture_svg(report)
    read = load_partition(tmp_path / "partition.npz", 6, targets_sha256(POOL.targets))
    assert read.sha256 == DIVIDED.partition.sha256


def test_clients_that_are_made_on_demand_leave_no_partition(tmp_path):
    write_report(describe(InMemoryPopulation.of([POOL, POOL]), 0), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"partition.json", "partition.svg"}


def test_writing_again_changes_nothing(tmp_path):
    write_report(describe(DIVIDED, 0), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(describe(DIVIDED, 0), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_directory_that_is_not_there_is_an_error_in_one_sentence(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"partition.npz"):
        write_report(describe(DIVIDED, 0), tmp_path / "gone")


def test_clients_with_examples_of_their_own_leave_no_picture(tmp_path):
    write_report(describe(Elsewhere(3), 0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["partition.json"]
    assert is_described(tmp_path)
