"""NumPy's file format, read and written as `numpy.load` and `numpy.save` do, and faster.

Flower keeps each array as such a file. NumPy takes its head for a Python expression and parses that
anew each time, which for small models costs more than to train them. Here the heads that were seen
are remembered.
"""

import re
from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_FIXED = 10
"""Bytes before the head in version 1 of the format: a magic text, the version, a length."""

_VERSION_1 = b"\x93NUMPY\x01\x00"
_NUMBERS = "biufc"
_HEAD = re.compile(
    rb"\{'descr': '([<>|][biufcSU]\d{1,6})', 'fortran_order': (?:True|False), "
    rb"'shape': \(((?:\d{1,18}, )*(?:\d{1,18},?)?)\), \} *\n"
)
_MOST_AXES, _MOST = 32, 1 << 48


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


def layout(data: bytes) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of a file from anybody, which is read no further.

    Only what NumPy writes of plain numbers and texts passes, and only if the file is as long as its
    head says: `read_npy` takes no more memory then than the file has.

    Args:
        data: All of the file.

    Raises:
        ValueError: It is not such a file.

    >>> layout(write_npy(np.zeros((2, 3), np.float32)))
    ('float32', (2, 3))
    """
    start = _FIXED + int.from_bytes(data[_FIXED - 2 : _FIXED], "little")
    head = _HEAD.fullmatch(data[_FIXED:start]) if data.startswith(_VERSION_1) else None
    if head is None:
        raise ValueError("it is no file of plain numbers as NumPy writes it")
    try:
        dtype = np.dtype(head[1].decode())
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("its dtype is none") from error
    shape = tuple(int(length) for length in head[2].split(b",") if length.strip())
    if len(shape) > _MOST_AXES or prod(max(1, length) for length in shape) > _MOST:
        raise ValueError(f"its shape of {len(shape)} axes is too large")
    if prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"its shape {list(shape)} contradicts its {len(data) - start} bytes")
    return str(dtype), shape


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
