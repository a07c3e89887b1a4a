"""Labels as class numbers, for kinds of partition and figures that depend on them."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.errors import DataError

MAX_CLASSES = 1 << 20
"""A label as large as this is taken for something else than a class number."""


def class_numbers(labels: Tensor) -> NDArray[np.int64]:
    """Return labels as an array, if they are class numbers.

    Args:
        labels: Integers, shape ``(examples,)``.

    Raises:
        DataError: They have a fractional dtype or another shape, or are out of range.
    """
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"targets of dtype {labels.dtype} and shape {tuple(labels.shape)} are not class "
            "numbers, one integer an example; partition.kind = 'iid' needs none"
        )
    numbers: NDArray[np.int64] = labels.numpy(force=True).astype(np.int64)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= MAX_CLASSES))
    if len(wrong) > 0:
        raise DataError(
            f"example {wrong[0]} has the label {numbers[wrong[0]]}, which is not a class number; "
            "number the classes from 0 without large gaps"
        )
    return numbers


def targets_sha256(targets: Tensor) -> str:
    """Return a hash of the targets of a pool, by which a stored partition knows its pool again.

    Args:
        targets: Of any dtype, shape ``(examples, ...)``.
    """
    values = targets.numpy(force=True)
    digest = hashlib.sha256(f"{values.dtype.newbyteorder('<').str} {values.shape}\n".encode())
    digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
