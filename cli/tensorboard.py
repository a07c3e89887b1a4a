"""``--tensorboard``: each round's figures as TensorBoard reads them, while the run goes on."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from roundel.core.errors import ConfigError
from roundel.core.records import RoundReport

FOLDER = "tensorboard"
TensorBoard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Log each round into the run directory, for `tensorboard --logdir RUN/tensorboard`.",
    ),
]

_GROUPS: Mapping[str, str] = {
    "train_loss": "train/loss",
    **{key: f"round/{key}" for key in ("cohort", "completed", "failures", "seconds")},
    **{key: f"round/{key}" for key in ("bytes_up", "bytes_down")},
}
"""Where keys of a round's line go that are no figure over examples."""
_NESTED = ("clients", "health")

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
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs the package tensorboard, which is not installed; install it with "
            "`pip install 'roundel[tensorboard]'` or leave the option out"
        )
    log = _Log(run / FOLDER)

    def both(report: RoundReport) -> None:
        on_round(report)
        log.add(report)

    try:
        yield both
    finally:
        log.close()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a round's line by their tag; the part before the slash groups them.

    >>> scalars({"round": 3, "accuracy": 0.5, "train_loss": 1.0, "clients": {"loss": {"p10": 2.0}}})
    {'test/accuracy': 0.5, 'train/loss': 1.0, 'clients/loss/p10': 2.0}
    """
    found: dict[str, float] = {}
    for key, value in line.items():
        if key in _NESTED and isinstance(value, Mapping):
            found |= _leaves(value, key)
        elif key != "round" and _is_number(value):
            found[_GROUPS.get(key, f"test/{key}")] = float(value)
    return found


def _leaves(tree: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}/{key}")
        elif _is_number(value):
            found[f"{prefix}/{key}"] = float(value)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


class _Log:
    """A file of events: made with the first round, since a run directory must begin empty."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
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
        event: Any = import_module("tensorboard.compat.proto.event_pb2")
        summary: Any = import_module("tensorboard.compat.proto.summary_pb2").Summary
        now = time.time()
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}"
            self._file = (self._folder / name).open("xb", buffering=0)
            self._append(event.Event(wall_time=now, file_version="brain.Event:2"))
        entries = [summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(event.Event(wall_time=now, step=round, summary=summary(value=entries)))

    def _append(self, event: Any) -> None:  # noqa: ANN401 - protoc writes no annotations
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._file).write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
