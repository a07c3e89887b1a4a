"""Tables of numbers with a class for each row, whatever file they come from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import ConfigError
from roundel.core.suggest import suggest

MAX_BYTES = 1 << 31
"""The largest file that is read, and the most that an archive may unpack to."""
LARGEST = float(np.finfo(np.float32).max)

_INTEGER = re.compile(r"0|-?[1-9]\d*")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table are used, by name.

    Attributes:
        target: The one with the classes; None for the last one.
        features: Those to learn from; None for all others.
        user: The one that says whose a row is; None if none does.
    """

    target: str | None = None
    features: Sequence[str] | None = None
    user: str | None = None


@dataclass(frozen=True)
class Coded:
    """A column of few different values.

    Attributes:
        values: The different values as text: in the order of numbers if all of them are whole
            numbers, of the alphabet otherwise.
        codes: For each row the place of its value in `values`, int64, shape ``(rows,)``.
    """

    values: Sequence[str]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[str], codes: NDArray[np.int64]) -> "Coded":
        """Bring the values into their order."""
        whole = are_whole_numbers(values)
        order = sorted(range(len(values)), key=lambda i: int(values[i]) if whole else values[i])
        places = np.empty(len(values), dtype=np.int64)
        places[order] = np.arange(len(values))
        return cls([values[i] for i in order], places[codes])


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The columns of a file that are used.

    Attributes:
        source: The file.
        target: What the column with the classes is called; None in an NPZ file.
        features: What the columns of `numbers` are called.
        numbers: Finite numbers, shape ``(rows, features)``.
        labels: The class of each row.
        users: Whose each row is, if that is known.
        lines: Where each row stands in the file, shape ``(rows,)``.
    """

    source: Path
    target: str | None
    features: Sequence[str]
    numbers: NDArray[np.float64]
    labels: Coded
    users: Coded | None
    lines: NDArray[np.int64]

    def place(self, row: int) -> str:
        """Say where a row stands, for an error message."""
        return f"{self.source}, {'row' if self.target is None else 'line'} {self.lines[row]}"


def are_whole_numbers(values: Sequence[str]) -> bool:
    """Tell whether every text is a whole number as Python writes it."""
    return all(_INTEGER.fullmatch(value) for value in values)


def find_column(path: Path, names: Sequence[str], knob: str, name: str) -> int:
    """Return the place of a column.

    Args:
        path: The file.
        names: What its columns are called.
        knob: The knob that names the column.
        name: What it names.

    Raises:
        ConfigError: There is no such column.
    """
    if name not in names:
        raise ConfigError(f"task.{knob}: {path} has no column {name!r}; {suggest(name, names)}")
    return names.index(name)


def check_features(
    names: Sequence[str], features: Sequence[int], taken: Sequence[int | None]
) -> Sequence[int]:
    """Return the places of the features, if each is named once and for nothing else.

    Args:
        names: What the columns are called.
        features: The places of those to learn from.
        taken: The places of target and user.

    Raises:
        ConfigError: One is named twice or taken, or there is none.
    """
    for place, feature in enumerate(features):
        if feature in taken or feature in features[:place]:
            raise ConfigError(
                f"task.features names {names[feature]!r}, which is the target, the user or named "
                "twice; leave it out"
            )
    if not features:
        raise ConfigError("task.features names no column; name one at least")
    return features


def are_finite(numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which numbers are finite, also as float32; NaN is not below anything."""
    fits: NDArray[np.bool_] = np.abs(numbers) <= LARGEST
    return fits
