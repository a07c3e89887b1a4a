"""IDX files are read as they are, plain or gzipped; what is wrong is said in a sentence."""

import gzip
import struct

import numpy as np
import pytest

from roundel.core.errors import DataError
from roundel.simulations.tasks import idx
from roundel.simulations.tasks.idx import read_idx

LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 255])
IMAGES = struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 3) + bytes(range(12))


@pytest.fixture
def write(tmp_path):
    def write_file(data):
        file = tmp_path / "some-idx-ubyte"
        file.write_bytes(data)
        return file

    return write_file


def complaint(file, axes=1):
    with pytest.raises(DataError) as caught:
        read_idx(file, axes)
    sentence = str(caught.value)
    assert str(file) in sentence
    assert "\n" not in sentence
    return sentence


def test_labels_are_read_in_order(write):
    labels = read_idx(write(LABELS), axes=1)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [5, 0, 255]


def test_images_are_read_row_by_row(write):
    images = read_idx(write(IMAGES), axes=3)
    assert images.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


def test_a_gzipped_file_is_told_by_its_content_and_not_its_name(write):
    assert read_idx(write(gzip.compress(LABELS)), axes=1).tolist() == [5, 0, 255]


@pytest.mark.parametrize("length", range(len(LABELS)))
def test_a_file_cut_short_anywhere_is_refused(write, length):
    assert "download the original again" in complaint(write(LABELS[:length]))


def test_a_file_with_a_byte_too_many_is_refused(write):
    assert "has 12 bytes and its header promises 11" in complaint(write(LABELS + b"\0"))


def test_a_file_of_another_kind_is_refused(write):
    assert "is not an IDX file" in complaint(write(b"PNG\r\n" + LABELS))


def test_images_where_labels_belong_are_refused(write):
    assert "in 3 axes, not unsigned bytes in 1;" in complaint(write(IMAGES))


def test_values_of_another_type_are_refused(write):
    floats = struct.pack(">4BIf", 0, 0, 0x0D, 1, 1, 2.0)
    assert "holds values of type 0x0d" in complaint(write(floats))


def test_a_header_that_promises_more_than_any_memory_is_refused(write):
    sentence = complaint(write(struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3)), axes=3)
    assert f"promises {(2**32 - 1) ** 3 + 16};" in sentence


@pytest.mark.parametrize("length", range(2, len(gzip.compress(LABELS))))
def test_a_gzipped_file_cut_short_anywhere_is_refused(write, length):
    complaint(write(gzip.compress(LABELS)[:length]))


def test_a_gzipped_file_with_a_wrong_checksum_is_refused(write):
    data = bytearray(gzip.compress(LABELS))
    data[-8] ^= 1
    assert "CRC check failed" in complaint(write(bytes(data)))


def test_a_gzipped_file_with_damaged_content_is_refused(write):
    data = bytearray(gzip.compress(bytes(range(256)) * 4))
    data[12] ^= 255
    assert "cannot be read" in complaint(write(bytes(data)))


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert "No such file" in complaint(tmp_path / "nowhere")
    assert "Is a directory" in complaint(tmp_path)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(write, monkeypatch):
    monkeypatch.setattr(idx, "_MAX_BYTES", 1000)
    file = write(gzip.compress(bytes(1001)))
    assert file.stat().st_size < 100
    assert "holds more than 1000 bytes" in complaint(file)
