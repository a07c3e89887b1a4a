"""What a comparison has to know of each of its runs, and no more: a run becomes a few series."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, groupby
from math import ceil, nan
from pathlib import Path
from typing import Any, Literal

from roundel.core.comparison import Cell
from roundel.core.config import Experiment
from roundel.core.errors import RunDirectoryError
from roundel.core.goals import value_at
from roundel.core.history import History, read_history
from roundel.core.records import RESERVED
from roundel.core.runfiles import CLIENTS, is_run, read_lines, why_failed
from roundel.reports.details import partition
from roundel.reports.listing import number, state_of

State = Literal["finished", "unfinished", "failed"]

_BESIDE = RESERVED | {"accuracy"}
"""Keys that a round's line has whether or not the round was evaluated."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all arms should share with the same seed, as hashes or counts.

    Attributes:
        partition: Who holds which examples; None if that was not recorded.
        model: Everything that the run began with; None if that was not recorded.
        cohorts: For each round, who was asked.
        answered: For each round, whose updates counted.
        steps: For each round, how many steps each of these took.
        work: How many steps an update took, mean over all.
    """

    partition: str | None = None
    model: str | None = None
    cohorts: Sequence[str] = ()
    answered: Sequence[str] = ()
    steps: Sequence[str] = ()
    work: float | None = None


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """What became of a cell.

    Attributes:
        cell: Which one.
        state: Only what has finished counts.
        why: Why it failed; empty if it did not.
        series: Metric to its value after each round: None where it was not measured, not a number
            where it was not finite.
        rounds: 1, 2, ...
        bytes: Sent and received by clients by the end of each round.
        seconds: What had passed by then, evaluation included.
        diverged: Whether a loss was not finite at the end.
        small: Whether clients were asked and none has enough examples for a figure of its own.
        shared: What is the same in all arms, if all is fair.
        experiment: As it was run; None if it never began.
        environment: Where; empty if it never began.
    """

    cell: Cell
    state: State
    why: str = ""
    series: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    rounds: Sequence[float] = ()
    bytes: Sequence[float] = ()
    seconds: Sequence[float] = ()
    diverged: bool = False
    small: bool = False
    shared: Shared = Shared()
    experiment: Experiment | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


def read_cell(directory: Path, cell: Cell, metrics: Sequence[str], tail: float) -> CellRun:
    """Read a cell's run, whatever has become of it.

    Args:
        directory: Of the comparison.
        cell: Which one.
        metrics: Keys of which series are wanted; dots lead inside.
        tail: The share of the rounds that is the end.
    """
    path = directory / cell.path
    if not is_run(path):
        why = why_failed(path) or ""
        return CellRun(cell=cell, state="failed" if why else "unfinished", why=why)
    try:
        history = read_history(path)
        state = state_of(history)
        if state != "finished":
            return CellRun(
                cell=cell,
                state="failed" if state == "failed" else "unfinished",
                why=why_failed(path) or "",
                environment=history.environment,
            )
        return _finished(cell, history, metrics, tail)
    except RunDirectoryError as error:
        return CellRun(cell=cell, state="failed", why=str(error))


def _finished(cell: Cell, history: History, metrics: Sequence[str], tail: float) -> CellRun:
    lines = history.rounds
    return CellRun(
        cell=cell,
        state="finished",
        series={metric: tuple(measured(line, metric) for line in lines) for metric in metrics},
        rounds=tuple(float(line["round"]) for line in lines),
        bytes=_summed(lines, "bytes_up", "bytes_down"),
        seconds=_summed(lines, "seconds"),
        diverged=_diverged(lines, tail),
        small=_none_has_its_own(lines),
        shared=_shared(history),
        experiment=history.experiment,
        environment=history.environment,
    )


def measured(line: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of a round's line.

    JSON has no word for what is not finite, so that it is null there, like a loss that was not
    measured: which of them it is, the rest of the line says.

    Args:
        line: Of ``metrics.jsonl``.
        key: Dots lead inside.

    Returns:
        The figure, not a number if it was not finite, or None if it was not measured.
    """
    sections, _, last = key.rpartition(".")
    inside = value_at(line, sections) if sections else line
    if not isinstance(inside, Mapping):
        return None
    found = number(inside.get(last))
    if found is not None or last not in inside:
        return found
    if sections:
        return nan if key.startswith("clients.") else None
    if key == "accuracy" or (key in RESERVED and not _evaluated(line)):
        return None
    return nan


def _evaluated(line: Mapping[str, Any]) -> bool:
    return line.get("accuracy") is not None or any(key not in _BESIDE for key in line)


def _diverged(lines: Sequence[Mapping[str, Any]], tail: float) -> bool:
    """Tell whether a loss was not finite in the last rounds.

    A loss of training is none either where nobody measures it.
    """
    last = lines[-ceil(tail * len(lines)) :] if lines else ()
    trained = any(line.get("train_loss") is not None for line in lines)
    return any(
        (line.get("loss") is None and _evaluated(line) and "loss" in line)
        or (trained and line.get("train_loss") is None and bool(line.get("completed")))
        for line in last
    )


def _none_has_its_own(lines: Sequence[Mapping[str, Any]]) -> bool:
    sections = [section for line in lines if isinstance(section := line.get("clients"), Mapping)]
    return any(each.get("small") for each in sections) and not any(
        isinstance(figure, Mapping) and "p10" in figure
        for each in sections
        for figure in each.values()
    )


def _summed(lines: Sequence[Mapping[str, Any]], *keys: str) -> tuple[float, ...]:
    """Return what had come together by the end of each round."""
    return tuple(accumulate(sum((number(line.get(k)) or 0.0 for k in keys), 0.0) for line in lines))


def _shared(history: History) -> Shared:
    told = partition(history.path) or {}
    cohorts, answered, steps = [], [], []
    taken, updates = 0.0, 0
    for clients in _cohorts(history.path):
        accepted = [line for line in clients if line.get("status") == "accepted"]
        counts = [(_client(line), number(line.get("num_steps"))) for line in accepted]
        cohorts.append(_hashed(sorted(map(_client, clients))))
        answered.append(_hashed(sorted(client for client, _ in counts)))
        steps.append(_hashed(sorted(counts, key=lambda count: count[0])))
        taken += sum(count or 0 for _, count in counts)
        updates += len(counts)
    return Shared(
        partition=_text(told.get("sha256")),
        model=_text(history.environment.get("model_blake3")),
        cohorts=cohorts,
        answered=answered,
        steps=steps,
        work=taken / updates if taken else None,
    )


def _cohorts(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of the clients that were to train, by round."""
    lines = (line for line in read_lines(path / CLIENTS) if not line.get("stage"))
    for _, group in groupby(lines, key=lambda line: line["round"]):
        yield list(group)


def _client(line: Mapping[str, Any]) -> int:
    return int(line.get("client", -1))


def _hashed(value: object) -> str:
    return blake2b(repr(value).encode(), digest_size=16).hexdigest()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
