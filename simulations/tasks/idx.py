"""IDX, the format of the original MNIST files: a header of big-endian numbers, then raw bytes.

Two zero bytes, one byte for the type of the values, one for the number of axes, then the length of
each axis in four bytes. Files may be gzipped.
"""

import gzip
from pathlib import Path
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import DataError

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 1 << 28
"""What is larger is no file of this kind: a bound against headers and archives that lie."""


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        path: The file; gzipped if it begins like it.
        axes: How many axes it must have: 1 for labels, 3 for images.

    Raises:
        DataError: It cannot be read, is of another kind, or is shorter or longer than it says.
    """
    data = _read(path)
    header = 4 + 4 * axes
    if len(data) < header or data[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file; download the original again")
    if data[2] != _UNSIGNED_BYTE or data[3] != axes:
        raise DataError(
            f"{path} holds values of type {data[2]:#04x} in {data[3]} axes, not unsigned bytes in "
            f"{axes}; check which file it is"
        )
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", axes, 4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise DataError(
            f"{path} has {len(data)} bytes and its header promises {expected}; it is truncated or "
            "damaged: download the original again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            data: bytes = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, ZlibError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); it is missing, truncated or damaged: download the "
            "original again"
        ) from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path} holds more than {_MAX_BYTES} bytes; it is no file of this kind")
    return data
