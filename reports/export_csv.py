"""Runs as two tidy tables: a row for each round, and one for each client in each round."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from roundel.core.files import replace_file, writing
from roundel.core.history import History
from roundel.core.records import ClientRecord
from roundel.core.runfiles import CLIENTS, read_lines
from roundel.reports.details import flat
from roundel.reports.exported import Exported

ROUNDS, CLIENTS_OF_ROUNDS = "rounds.csv", "clients.csv"

_WHICH = ("run", "group", "problem", "arm", "strategy", "seed")
"""The columns that say which run a row is about."""

_CLIENT = tuple(field.name for field in fields(ClientRecord))

_Row = Mapping[str, Any]


def export_csv(runs: Sequence[Exported], out: Path) -> None:
    """Write ``rounds.csv`` and ``clients.csv``.

    Metrics have the dotted names that lead to them in ``metrics.jsonl``; what was not measured is
    empty, and what is no single value, such as a confusion matrix, is left out.

    Args:
        runs: Each is read when it is its turn.
        out: A directory.

    Raises:
        RunDirectoryError: A run is damaged, or a file cannot be written.
    """
    columns = dict.fromkeys(key for run in runs for row in _rounds(run.history()) for key in row)
    rounds = (
        {**_which(run, history), **row}
        for run in runs
        for history in [run.history()]
        for row in _rounds(history)
    )
    clients = (
        {**_which(run, history), **line}
        for run in runs
        for history in [run.history()]
        for line in read_lines(run.path / CLIENTS)
    )
    _write(out / ROUNDS, (*_WHICH, *columns), rounds)
    _write(out / CLIENTS_OF_ROUNDS, (*_WHICH, *_CLIENT), clients)


def _which(run: Exported, history: History) -> _Row:
    experiment = history.experiment
    return {
        "run": run.name,
        "group": run.group,
        **run.about,
        "strategy": experiment.strategy.title,
        "seed": experiment.seed,
    }


def _rounds(history: History) -> Iterator[_Row]:
    for line in history.rounds:
        yield {key: value for key, value in flat(line).items() if not isinstance(value, list)}


def _write(path: Path, columns: Sequence[str], rows: Iterable[_Row]) -> None:
    with writing(path):
        replace_file(path, _lines(columns, rows))


def _lines(columns: Sequence[str], rows: Iterable[_Row]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()
