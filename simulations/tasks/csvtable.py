"""Tables from CSV files.

A CSV file is text in UTF-8 whose first line names the columns; cells are separated by commas,
semicolons or tabs, whichever gives that line the most columns.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import DataError
from roundel.simulations.tasks.tables import (
    Coded,
    Columns,
    Table,
    are_finite,
    check_features,
    find_column,
)

DELIMITERS = ",;\t"
_CHUNK = 4096
"""Rows that are held as text at a time."""


def read_csv(path: Path, columns: Columns) -> Table:
    """Read a CSV file.

    Raises:
        ConfigError: A column that `columns` names does not exist.
        DataError: The file is not such a table, or a cell is empty or not a finite number.
        OSError: The file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(path, file, columns)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8; save it as CSV in that encoding") from error


@dataclass(frozen=True)
class _Header:
    """The first line, and which of its columns are which."""

    names: Sequence[str]
    target: int
    features: Sequence[int]
    user: int | None


@dataclass
class _Coder:
    """Codes for texts, in the order in which they first come."""

    known: dict[str, int] = field(default_factory=dict[str, int])
    codes: list[int] = field(default_factory=list[int])

    def add(self, text: str) -> None:
        self.codes.append(self.known.setdefault(text, len(self.known)))

    def coded(self) -> Coded:
        return Coded.of(list(self.known), np.asarray(self.codes, dtype=np.int64))


def _read(path: Path, file: TextIO, columns: Columns) -> Table:
    first = file.readline(csv.field_size_limit())
    file.seek(0)
    reader = csv.reader(file, delimiter=_delimiter(first), strict=True)
    try:
        header = _header(path, next(reader, []), columns)
        labels, users, lines = _Coder(), _Coder(), list[int]()
        parts: list[NDArray[np.float64]] = []
        rows = _rows(path, reader, len(header.names))
        while chunk := list(islice(rows, _CHUNK)):
            parts.append(_numbers(path, chunk, header))
            for line, row in chunk:
                labels.add(_filled(path, line, header.names[header.target], row[header.target]))
                if header.user is not None:
                    users.add(_filled(path, line, header.names[header.user], row[header.user]))
                lines.append(line)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; save it as CSV again") from error
    if not parts:
        raise DataError(f"{path} has no rows below its header; there is nothing to learn from")
    return Table(
        source=path,
        target=header.names[header.target],
        features=[header.names[i] for i in header.features],
        numbers=np.concatenate(parts),
        labels=labels.coded(),
        users=None if header.user is None else users.coded(),
        lines=np.asarray(lines, dtype=np.int64),
    )


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([line], delimiter=mark), [])))


def _header(path: Path, cells: Sequence[str], columns: Columns) -> _Header:
    names = [cell.strip() for cell in cells]
    if not names:
        raise DataError(f"{path} is empty; its first line must name the columns")
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path} begins with numbers; its first line must name the columns: add one"
        )
    for place, name in enumerate(names):
        if not name or name in names[:place]:
            raise DataError(
                f"{path}: column {place + 1} is called {name!r}; give every column a name of its "
                "own"
            )
    user = None if columns.user is None else find_column(path, names, "user", columns.user)
    others = [i for i in range(len(names)) if i != user]
    if len(others) < 2:  # noqa: PLR2004 - a class, and something to tell it from
        raise DataError(
            f"{path} has only the columns {', '.join(names)}; it takes a target and a feature at "
            "least, separated by commas, semicolons or tabs"
        )
    target = (
        others[-1] if columns.target is None else find_column(path, names, "target", columns.target)
    )
    features = [i for i in others if i != target]
    if columns.features is not None:
        features = [find_column(path, names, "features", name) for name in columns.features]
    return _Header(names, target, check_features(names, features, (target, user)), user)


def _rows(path: Path, reader: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, and the number of its line."""
    for row in reader:
        line: int = reader.line_num  # type: ignore[attr-defined]
        if row and len(row) != width:
            raise DataError(
                f"{path}, line {line} has {len(row)} cells and the header names {width}; make them "
                "as many"
            )
        if row:
            yield line, row


def _numbers(
    path: Path, chunk: Sequence[tuple[int, list[str]]], header: _Header
) -> NDArray[np.float64]:
    """Return the features of some rows."""
    try:
        values = [[_number(row[i]) for i in header.features] for _, row in chunk]
    except ValueError:
        line, cell, name = next(
            (line, row[i], header.names[i])
            for line, row in chunk
            for i in header.features
            if not _is_number(row[i])
        )
        raise DataError(
            f"{path}, line {line}, column {name!r}: {cell!r} is not a number; correct it, or leave "
            "the column out of task.features"
        ) from None
    numbers = np.asarray(values, dtype=np.float64)
    wrong = np.argwhere(~are_finite(numbers))
    if len(wrong):
        row, column = wrong[0]
        line, cells = chunk[row]
        place = header.features[column]
        raise DataError(
            f"{path}, line {line}, column {header.names[place]!r}: {cells[place]!r} is not a "
            "finite number of 32 bits; correct it or remove the row"
        )
    return numbers


def _number(cell: str) -> float:
    """Read a number as tables write it: Python itself takes ``1_000`` for 1000."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def _filled(path: Path, line: int, name: str, cell: str) -> str:
    text = cell.strip()
    if not text:
        raise DataError(f"{path}, line {line}, column {name!r} is empty; fill it or remove the row")
    return text


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True
