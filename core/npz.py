"""NumPy archives from elsewhere: bounded, and never unpickled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray


class TooLargeError(Exception):
    """An archive would unpack to more than is read.

    Attributes:
        size: To how many bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"it unpacks to {size} bytes")
        self.size = size


def read_arrays(path: Path, names: Sequence[str], most_bytes: int) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an archive, as far as it has them.

    Args:
        path: The archive.
        names: Which arrays are wanted.
        most_bytes: To how many bytes it may unpack.

    Raises:
        OSError: The file cannot be opened.
        TooLargeError: It would unpack to more.
        ValueError: It is no such archive, is damaged, or holds objects that would be unpickled.
    """
    try:
        with ZipFile(path) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > most_bytes:
            raise TooLargeError(size)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except (
        *(ValueError, KeyError, EOFError, MemoryError, BadZipFile, ZlibError),
        *(RuntimeError, NotImplementedError),  # encrypted, or packed in a way that Python lacks
    ) as error:
        raise ValueError(str(error)) from error
