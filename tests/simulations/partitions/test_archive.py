"""A partition that was written is read again as it was, or a sentence says why it cannot be."""

import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roundel.core.errors import DataError
from roundel.simulations.partitions import archive
from roundel.simulations.partitions.archive import load_partition, save_partition
from roundel.simulations.partitions.partition import Partition

PARTITION = Partition.of(np.array([1, 0, 3, 1, 0, 1]), 4, "shards").holding_out(
    validation=0.4, test=0.5, seed=0
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_partition(PARTITION, "cafe", tmp_path / "partition.npz")
    return tmp_path / "partition.npz"


def test_what_is_read_is_what_was_written(file):
    read = load_partition(file, 6, "cafe")
    assert read.sha256 == PARTITION.sha256
    assert read.parts.tolist() == PARTITION.parts.tolist()
    assert (read.clients, read.kind) == (4, "shards")
    assert read.order.dtype == read.offsets.dtype == np.int64


def test_it_is_a_plain_numpy_archive_without_pickles(file):
    with np.load(file, allow_pickle=False) as arrays:
        assert set(arrays) == {"order", "offsets", "parts", "kind", "targets_sha256"}
        assert arrays["order"].tolist() == [1, 4, 0, 3, 5, 2]
        assert arrays["order"].dtype == "<u4"


def test_the_same_partition_gives_the_same_bytes_at_any_time(file, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    save_partition(PARTITION, "cafe", tmp_path / "later.npz")
    assert (tmp_path / "later.npz").read_bytes() == file.read_bytes()


def test_a_pool_of_another_size_is_refused(file):
    with pytest.raises(DataError, match=r"divides 6 examples and the pool has 7; give the part"):
        load_partition(file, 7, "cafe")


def test_a_pool_with_other_targets_is_refused(file):
    with pytest.raises(DataError, match=r"made for a pool with other targets"):
        load_partition(file, 6, "beef")


def test_a_file_that_is_missing_is_named_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"no file .*gone.npz; set partition.path to the partition"):
        load_partition(tmp_path / "gone.npz", 6, "cafe")


def test_a_directory_is_no_partition(tmp_path):
    with pytest.raises(DataError, match=r"is not the partition.npz of a run"):
        load_partition(tmp_path, 6, "cafe")


def test_every_truncated_file_is_refused(file):
    data = file.read_bytes()
    for length in range(0, len(data) - 1, 37):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"is not the partition.npz of a run, or is damaged"):
            load_partition(file, 6, "cafe")


def test_a_flipped_bit_in_the_arrays_is_noticed(file):
    data = bytearray(file.read_bytes())
    place = data.index(PARTITION.order.astype("<u4").tobytes())
    data[place] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"is damaged: Bad CRC-32"):
        load_partition(file, 6, "cafe")


def test_an_archive_with_pickles_is_refused(tmp_path):
    arrays = {name: np.array([{"a": 1}], dtype=object) for name in archive._MEMBERS}
    np.savez(tmp_path / "bad.npz", allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=r"allow_pickle=False"):
        load_partition(tmp_path / "bad.npz", 6, "cafe")


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(file, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"holds \d+ bytes, more than any partition"):
        load_partition(file, 6, "cafe")


def test_an_array_is_missing(tmp_path):
    np.savez(tmp_path / "bad.npz", order=np.arange(6))
    with pytest.raises(DataError, match=r"damaged: .*offsets"):
        load_partition(tmp_path / "bad.npz", 6, "cafe")


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as packed:
        for name in archive._MEMBERS:
            with packed.open(f"{name}.npy", "w") as member:
                shape = {"descr": "<i8", "fortran_order": False, "shape": (1 << 50,)}
                np.lib.format.write_array_header_1_0(member, shape)
    with pytest.raises(DataError, match=r"is damaged"):
        load_partition(path, 6, "cafe")


@pytest.mark.parametrize(
    "change",
    [
        {"order": np.array([1, 4, 0, 3, 5, 5])},
        {"order": np.array([1, 4, 0, 3, 5, 6])},
        {"offsets": np.array([0, 2, 5, 4, 6])},
        {"offsets": np.array([1, 2, 5, 5, 6])},
        {"offsets": np.array([0, 2, 5, 5, 7])},
        {"offsets": np.array([6])},
        {"parts": np.array([0, 0, 0, 0, 0, 3], dtype=np.uint8)},
        {"parts": np.array([0, 0, 0, 0, 0], dtype=np.uint8)},
    ],
)
def test_arrays_that_are_no_partition_are_refused(tmp_path, change):
    save_partition(replace(PARTITION, **change), "cafe", tmp_path / "bad.npz")
    with pytest.raises(DataError, match=r"its arrays are not those of a partition"):
        load_partition(tmp_path / "bad.npz", 6, "cafe")
