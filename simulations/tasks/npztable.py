"""Tables from NPZ files: the arrays ``x`` and ``y``, or ``inputs`` and ``targets``, and ``users``.

Their columns are called ``x0``, ``x1`` and so on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import ConfigError, DataError
from roundel.core.npz import TooLargeError, read_arrays
from roundel.simulations.tasks.tables import (
    MAX_BYTES,
    Coded,
    Columns,
    Table,
    are_finite,
    check_features,
    find_column,
)


def read_npz(path: Path, columns: Columns) -> Table:
    """Read an NPZ file; it is never unpickled.

    Raises:
        ConfigError: `columns` names a target, a user or a feature that does not exist.
        DataError: An array is missing, or of another shape or dtype, or not finite.
        OSError: The file cannot be read.
    """
    if columns.target is not None or columns.user is not None:
        raise ConfigError(
            f"task.target and task.user name columns of a CSV file, and {path} has its classes in "
            "the array y and its users in the array users; leave the two out"
        )
    arrays = _arrays(path)
    numbers = _one_of(path, arrays, "x", "inputs")
    if numbers.ndim != 2 or numbers.dtype.kind not in "biuf":  # noqa: PLR2004 - rows and columns
        raise DataError(
            f"{path}: x has the shape {numbers.shape} and the dtype {numbers.dtype}; make it "
            "numbers of shape (rows, features)"
        )
    numbers = numbers.astype(np.float64)
    wrong = np.argwhere(~are_finite(numbers))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{path}, row {row}, column 'x{column}': {numbers[row, column]:g} is not a finite "
            "number of 32 bits; correct it or remove the row"
        )
    if numbers.size == 0:
        raise DataError(f"{path}: x has the shape {numbers.shape}; there is nothing to learn from")
    names = [f"x{i}" for i in range(numbers.shape[1])]
    chosen: Sequence[int] = range(len(names))
    if columns.features is not None:
        found = [find_column(path, names, "features", name) for name in columns.features]
        chosen = check_features(names, found, ())
    users = _coded(path, "users", arrays["users"], len(numbers)) if "users" in arrays else None
    return Table(
        source=path,
        target=None,
        features=[names[i] for i in chosen],
        numbers=numbers[:, list(chosen)],
        labels=_coded(path, "y", _one_of(path, arrays, "y", "targets"), len(numbers)),
        users=users,
        lines=np.arange(len(numbers)),
    )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(path, ("x", "inputs", "y", "targets", "users"), MAX_BYTES)
    except TooLargeError as error:
        raise DataError(
            f"{path} unpacks to {error.size} bytes, and at most {MAX_BYTES} are read"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read ({error}); save it with numpy.savez, with arrays of numbers "
            "and text only"
        ) from error


def _one_of(path: Path, arrays: Mapping[str, NDArray[Any]], *names: str) -> NDArray[Any]:
    found = [name for name in names if name in arrays]
    if len(found) != 1:
        raise DataError(
            f"{path} has {' and '.join(found) or 'neither'} of the arrays {' and '.join(names)}; "
            "save one of them"
        )
    return arrays[found[0]]


def _coded(path: Path, name: str, array: NDArray[Any], rows: int) -> Coded:
    if array.shape != (rows,) or array.dtype.kind not in "biuU":
        raise DataError(
            f"{path}: {name} has the shape {array.shape} and the dtype {array.dtype}; make it "
            f"whole numbers or text of shape ({rows},)"
        )
    plain = array.astype(np.int64) if array.dtype.kind == "b" else array
    values, codes = np.unique(plain, return_inverse=True)
    return Coded.of([str(value) for value in values.tolist()], codes.astype(np.int64))
