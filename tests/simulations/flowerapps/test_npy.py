"""NumPy's file format, faster."""

import io

import numpy as np
import pytest

from roundel.simulations.flowerapps.npy import layout, read_npy, write_npy

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.float64(3.5) * np.ones(()),
    np.zeros((0, 4), dtype=np.int64),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.arange(3, dtype=np.uint8),
    np.arange(4, dtype=">f4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12.0).reshape(3, 4)[:, ::2],
    np.array(["a", "bc"]),
    np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
]


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_bytes_and_arrays_are_those_of_numpy(array):
    for _ in range(2):  # the second time the head is known
        data = write_npy(array)
        assert data == saved(array)
        mine, theirs = read_npy(data), np.load(io.BytesIO(data))
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.size == 0 or mine.strides == theirs.strides
        assert mine.tobytes() == theirs.tobytes()
        assert mine.flags.writeable


@pytest.mark.parametrize("array", ARRAYS[:-1], ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_the_layout_of_a_file_is_read_without_the_rest(array):
    assert layout(saved(array)) == (str(array.dtype), array.shape)


def test_a_file_of_several_fields_has_no_plain_layout():
    with pytest.raises(ValueError, match="no file of plain numbers"):
        layout(saved(ARRAYS[-1]))


def test_an_array_has_memory_of_its_own():
    data = saved(np.zeros(3))
    read_npy(data)[:] = 1.0
    assert (read_npy(data) == 0.0).all()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", b"x" * 100, saved(np.ones(4))[:-1]])
def test_what_is_no_such_file_is_refused(data):
    with pytest.raises((ValueError, EOFError)):
        read_npy(data)


def test_objects_are_refused():
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_npy(np.array([object()]))
