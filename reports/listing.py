"""All runs under a directory, one row each; a damaged one is a row too."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import fsum
from pathlib import Path
from typing import Any, Literal

from roundel.core.errors import RunDirectoryError
from roundel.core.history import History, read_history
from roundel.core.records import RESERVED
from roundel.core.runfiles import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    FINISHED,
    METRICS,
    MODEL,
    is_app_run,
    why_failed,
)
from roundel.reports.text import NONE, figure, table

State = Literal["finished", "unfinished", "failed", "damaged"]

_NO_FIGURES = RESERVED - {"loss"}
"""The keys of a round's line that are no metric: metrics stand beside them."""
_HEAD = (
    *("run", "name", "strategy", "task", "rounds"),
    *("state", "accuracy", "loss", "seconds", "began"),
)
_NUMBERS = ("rounds", "accuracy", "loss", "seconds")
_DEPTH = 5
"""So many directories deep, runs may be grouped: those of a comparison lie four deep in it."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """What a list says about one run.

    Attributes:
        path: The run directory.
        state: ``finished`` once the final model is there, ``failed`` if it ended before that,
            ``damaged`` if it cannot be read, ``unfinished`` otherwise.
        name: What the experiment calls itself.
        strategy: Name of the strategy.
        task: Name of the task.
        done: How many rounds are recorded.
        rounds: How many it was to have.
        accuracy: The last one that was measured.
        loss: The last one that was measured.
        seconds: How long its rounds took together.
        began: When it began, by the clock of the file system, as ISO 8601 in UTC.
        stopped: Why it ended before its last round, if it did so by itself.
        problem: What is wrong with it, if it is damaged, or why it failed.
    """

    path: Path
    state: State
    name: str | None = None
    strategy: str | None = None
    task: str | None = None
    done: int | None = None
    rounds: int | None = None
    accuracy: float | None = None
    loss: float | None = None
    seconds: float | None = None
    began: str | None = None
    stopped: str | None = None
    problem: str | None = None

    def line(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return asdict(self) | {"path": str(self.path)}


def list_runs(directory: Path) -> list[RunRow]:
    """Return a row for each run in a directory, the oldest first.

    Runs may lie in directories of their own below it, and the directory may itself be a run.

    Raises:
        RunDirectoryError: There is no such directory, or it cannot be read.
    """
    if not directory.is_dir():
        raise RunDirectoryError(f"there is no directory {directory}; check the path")
    try:
        next(directory.iterdir(), None)
    except OSError as error:
        raise RunDirectoryError(
            f"{directory} cannot be read: {error.strerror}; check its permissions"
        ) from error
    rows = [read_row(path) for path in _runs(directory, _DEPTH)]
    return sorted(rows, key=lambda row: (row.began or "", row.path))


def read_row(path: Path) -> RunRow:
    """Return the row of one run, whatever state it is in."""
    if is_app_run(path):
        return _app_row(path)
    try:
        history = read_history(path)
    except RunDirectoryError as error:
        return RunRow(path=path, state="damaged", began=_began(path), problem=str(error))
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}; check its permissions"
        return RunRow(path=path, state="damaged", began=_began(path), problem=problem)
    experiment = history.experiment
    figures = final_figures(history.rounds)
    return RunRow(
        path=path,
        state=state_of(history),
        name=experiment.name,
        strategy=experiment.strategy.title,
        task=experiment.task.name,
        done=len(history.rounds),
        rounds=experiment.rounds,
        accuracy=figures.get("accuracy"),
        loss=figures.get("loss"),
        seconds=total_seconds(history.rounds),
        began=_began(path),
        stopped=stopped(history),
        problem=failure(history.path),
    )


def _app_row(path: Path) -> RunRow:
    """Return the row of the run of a Flower app, of which no more is known than how far it came."""
    problem = failure(path)
    state: State = "unfinished" if problem is None else "failed"
    if (path / FINISHED).exists():
        state = "finished"
    return RunRow(path=path, state=state, task="a Flower app", began=_began(path), problem=problem)


def state_of(history: History) -> State:
    """Return how far a run came: it is finished once its final model is written."""
    if (history.path / MODEL).exists():
        return "finished"
    return "unfinished" if why_failed(history.path) is None else "failed"


def failure(path: Path) -> str | None:
    """Return a sentence about why a run failed; None if it did not, or went on since."""
    why = why_failed(path)
    return None if why is None else f"{path} failed: {why}"


def stopped(history: History) -> str | None:
    """Return why a run ended before its last round, if it did so by itself."""
    reason = history.rounds[-1].get("stopped") if history.rounds else None
    return None if reason is None else str(reason)


def total_seconds(rounds: Sequence[Mapping[str, Any]]) -> float:
    """Return how long all rounds took together, in seconds."""
    return fsum(number(line.get("seconds")) or 0.0 for line in rounds)


def final_figures(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of the last round that was evaluated, by name."""
    for line in reversed(rounds):
        named = {k: number(v) for k, v in line.items() if k not in _NO_FIGURES}
        if found := {name: value for name, value in named.items() if value is not None}:
            return found
    return {}


def number(value: object) -> float | None:
    """Return what a line says if it is a number, as lines of other versions may say anything."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def listing(rows: Sequence[RunRow]) -> str:
    """Return the rows as a table, with a sentence below for each damaged or failed run."""
    lines = table(_HEAD, [_cells(row) for row in rows], right=_NUMBERS)
    lines += [row.problem for row in rows if row.problem]
    return "\n".join(lines)


def _cells(row: RunRow) -> list[str]:
    return [
        str(row.path),
        row.name or NONE,
        row.strategy or NONE,
        row.task or NONE,
        NONE if row.done is None else f"{row.done}/{row.rounds}",
        "stopped early" if row.stopped else row.state,
        figure(row.accuracy),
        figure(row.loss),
        NONE if row.seconds is None else f"{row.seconds:.1f}",
        NONE if row.began is None else _local(row.began),
    ]


def _local(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")


def _began(path: Path) -> str | None:
    """Return when the run's first file was written; nothing rewrites it afterwards."""
    for name in (CONFIG, ENVIRONMENT):
        try:
            changed = (path / name).stat().st_mtime
        except OSError:
            continue
        return datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    return None


def _runs(directory: Path, depth: int) -> Iterator[Path]:
    """Yield the directories that are a run or once were; what lies inside one is its own."""
    try:
        is_one = any((directory / name).exists() for name in (CONFIG, ENVIRONMENT, METRICS))
        below = sorted(p for p in directory.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return
    if is_one or (directory / CHECKPOINTS).exists():
        yield directory
        return
    for path in below if depth else ():
        if not path.name.startswith("."):
            yield from _runs(path, depth - 1)
