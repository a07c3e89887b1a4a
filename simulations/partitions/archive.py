"""Partitions on the disk, so that another run can divide the same pool the same way."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import DataError
from roundel.core.files import write_atomic
from roundel.core.npz import TooLargeError, read_arrays
from roundel.simulations.partitions.partition import TEST, Partition

_MEMBERS = ("order", "offsets", "parts", "kind", "targets_sha256")
_MAX_BYTES = 1 << 31
"""What is larger is no file of this kind: a bound against archives that lie."""


def save_partition(partition: Partition, targets_sha256: str, path: Path) -> None:
    """Write a partition in one step; the same partition gives the same bytes.

    Args:
        partition: What to write.
        targets_sha256: The hash of the targets of its pool, by which it is known again.
        path: A NumPy archive, without pickles.

    Raises:
        RunDirectoryError: It cannot be written.
    """
    values = (
        _narrow(partition.order),
        _narrow(partition.offsets),
        partition.parts,
        np.array(partition.kind),
        np.array(targets_sha256),
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, value in zip(_MEMBERS, values, strict=True):
            # A ZipInfo without a date is of 1980: the time of writing would change the bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
    write_atomic(path, packed.getvalue())


def load_partition(path: Path, examples: int, targets_sha256: str) -> Partition:
    """Read a partition of a pool.

    Args:
        path: What `save_partition` wrote.
        examples: How many examples the pool has.
        targets_sha256: The hash of the pool's targets.

    Raises:
        DataError: It cannot be read, is damaged, or is of another pool.
    """
    order, offsets, parts, kind, targets = _members(path)
    if len(order) != examples:
        raise DataError(
            f"{path} divides {len(order)} examples and the pool has {examples}; give the "
            "partition of a run with the same task and data"
        )
    if str(targets) != targets_sha256:
        raise DataError(
            f"{path} was made for a pool with other targets than this one, as their hashes say; "
            "give the partition of a run with the same task and data"
        )
    if not _is_whole(order, offsets, parts):
        raise _damaged(path, "its arrays are not those of a partition")
    return Partition(
        order=order.astype(np.int64),
        offsets=offsets.astype(np.int64),
        parts=parts.astype(np.uint8),
        kind=str(kind),
    )


def _members(path: Path) -> list[NDArray[Any]]:
    try:
        arrays = read_arrays(path, _MEMBERS, _MAX_BYTES)
    except FileNotFoundError as error:
        raise DataError(
            f"there is no file {path}; set partition.path to the partition.npz of a run"
        ) from error
    except TooLargeError as error:
        raise _damaged(path, f"it holds {error.size} bytes, more than any partition") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    for name in _MEMBERS:
        if name not in arrays:
            raise _damaged(path, f"it has no array {name!r}")
    return [arrays[name] for name in _MEMBERS]


def _is_whole(order: np.ndarray, offsets: np.ndarray, parts: np.ndarray) -> bool:
    integers = all(a.ndim == 1 and a.dtype.kind in "iu" for a in (order, offsets, parts))
    return bool(
        integers
        and len(parts) == len(order)
        and len(offsets) > 1
        and offsets[0] == 0
        and offsets[-1] == len(order)
        and (np.diff(offsets.astype(np.int64)) >= 0).all()
        and parts.max(initial=0) <= TEST
        and np.array_equal(np.sort(order), np.arange(len(order)))
    )


def _narrow(numbers: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> np.ndarray:
    return numbers.astype("<u4" if numbers.max(initial=0) < 1 << 32 else "<i8")


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is not the partition.npz of a run, or is damaged: {why}; copy it again"
    )
