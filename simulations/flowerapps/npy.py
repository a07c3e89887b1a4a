"""NumPy's file format, read and written as `numpy.load` and `numpy.save` do, and faster.

Flower keeps each array as such a file. NumPy takes its head for a Python expression and parses that
anew each time, which for small models costs more than to train them. Here the heads that were seen
are remembered.
"""

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_FIXED = 10
"""Bytes before the head in version 1 of the format: a magic text, the version, a length."""

_VERSION_1 = b"\x93NUMPY\x01\x00"
_NUMBERS = "biufc"


def read_npy(data: bytes) -> NDArray[Any]:
    """Return the array of a file, with memory of its own.

    Args:
        data: All of the file.

    Raises:
        ValueError: It is not one, or it holds objects.

    >>> read_npy(write_npy(np.array([1.5, 2.5])))
    array([1.5, 2.5])
    """
    start = _FIXED + int.from_bytes(data[_FIXED - 2 : _FIXED], "little")
    known = _layout(data[:start]) if data.startswith(_VERSION_1) else None
    if known is None:
        array: NDArray[Any] = np.load(BytesIO(data), allow_pickle=False)
        return array
    dtype, shape, count = known
    return np.frombuffer(data, dtype, count, start).reshape(shape).copy()


def write_npy(array: NDArray[Any]) -> bytes:
    """Return an array as a file.

    Args:
        array: Of any shape; of numbers, texts or the like, but not of objects.

    Raises:
        ValueError: It holds objects.
    """
    usual = type(array) is np.ndarray and array.dtype.kind in _NUMBERS and array.dtype.isnative
    if not usual or not array.flags.c_contiguous:
        return _saved(array)
    return b"".join([_head(array.dtype.str, array.shape), array.data])


def _saved(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@lru_cache(maxsize=4096)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what stands before the numbers of an array."""
    file = BytesIO()
    said = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, said)
    return file.getvalue()


@lru_cache(maxsize=4096)
def _layout(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int] | None:
    """Read a head; return dtype, shape and size, or None if `numpy.load` is to see to it."""
    file = BytesIO(head)
    npy.read_magic(file)
    shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    if fortran_order or dtype.kind not in _NUMBERS:
        return None
    return dtype, shape, int(np.prod(shape, dtype=np.int64))
