"""``--tensorboard``: each round's figures as TensorBoard reads them, while the run goes on."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from roundel.core.records import RoundReport
from roundel.reports.scalars import scalars
from roundel.reports.tensorboard import EventFile, need_tensorboard

FOLDER = "tensorboard"
TensorBoard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Log each round into the run directory, for `tensorboard --logdir RUN/tensorboard`.",
    ),
]

OnRound = Callable[[RoundReport], None]


@contextmanager
def logged(run: Path, on_round: OnRound, *, wanted: bool) -> Iterator[OnRound]:
    """Yield a callback that calls the given one and, if wanted, logs each round.

    A log that cannot be written is said once; the run goes on without it.

    Args:
        run: The run directory; the log is in its folder ``tensorboard``.
        on_round: What else happens after a round.
        wanted: Whether to log.

    Raises:
        ConfigError: The package is not installed.
    """
    if not wanted:
        yield on_round
        return
    need_tensorboard("--tensorboard", " or leave the option out")
    log = _Log(run / FOLDER)

    def both(report: RoundReport) -> None:
        on_round(report)
        log.add(report)

    try:
        yield both
    finally:
        log.close()


class _Log:
    """A file of events: made with the first round, since a run directory must begin empty."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: EventFile | None = None
        self._broken = False

    def add(self, report: RoundReport) -> None:
        """Log a round, unless it was logged before the run was interrupted."""
        if self._broken or report.recomputed:
            return
        try:
            self._write(report.record.round, scalars(report.record.line()))
        except OSError as error:
            self._broken = True
            print(
                f"roundel: the log in {self._folder} cannot be written ({error.strerror}); the "
                "run goes on without it",
                file=sys.stderr,
                flush=True,
            )

    def _write(self, round: int, values: Mapping[str, float]) -> None:
        now = time.time()
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}"
            self._file = EventFile(self._folder / name, now)
        self._file.add(round, values, now)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
