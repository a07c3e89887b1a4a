"""What the page of single runs shows, read from their directories."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from roundel.core.arms import value_text
from roundel.core.comparison import leaves
from roundel.core.config import Experiment
from roundel.core.history import History, read_history
from roundel.reports.bands import Band
from roundel.reports.details import details
from roundel.reports.heat import Heat, heat
from roundel.reports.listing import final_figures, number

PICTURE = "partition.svg"

_MOST_BYTES = 1 << 24
"""What is larger is no picture of a partition."""
_MOST_METRICS = 4
_NOT_DRAWN = frozenset({"epsilon", "delta", "precision", "recall"})
"""What no curve is drawn of: the budget of privacy, and what each class says more clearly."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run on a page.

    Attributes:
        label: What tells it from the other runs of the page.
        found: What `roundel.reports.details.details` returns.
        bands: A curve for each metric.
        heat: Its clients by rounds; None if it has no lines about clients.
        picture: That of its partition, an SVG document; None if there is none.
        bytes_up: What clients sent in all.
        bytes_down: What clients were sent in all.
        lost: How many updates did not count.
        command: The line that computes it again; None if it was no simulation.
    """

    label: str
    found: Mapping[str, Any]
    bands: tuple[Band, ...]
    heat: Heat | None
    picture: bytes | None
    bytes_up: int
    bytes_down: int
    lost: int
    command: str | None


def read_runs(paths: Sequence[Path]) -> tuple[RunReport, ...]:
    """Read runs, finished or not, in the order given.

    Raises:
        RunDirectoryError: One of them is no run, or is damaged.
    """
    histories = [read_history(path) for path in paths]
    return tuple(
        _report(history, label) for history, label in zip(histories, labels_of(paths), strict=True)
    )


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Return the end of each path that tells it from the others.

    >>> labels_of([Path("runs/a/seed-0"), Path("runs/b/seed-0")])
    ['a/seed-0', 'b/seed-0']
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]  # noqa: PTH100 - links stay
    for count in range(1, max(map(len, parts))):
        labels = ["/".join(each[-count:]) for each in parts]
        if len(set(labels)) == len(set(parts)):
            return labels
    return [str(path) for path in paths]


def _report(history: History, label: str) -> RunReport:
    rounds = history.rounds
    return RunReport(
        label=label,
        found=details(history),
        bands=tuple(_band(label, metric, rounds) for metric in _metrics(rounds)),
        heat=heat(history.clients(), len(rounds)),
        picture=read_picture(history.path),
        bytes_up=_total(rounds, "bytes_up"),
        bytes_down=_total(rounds, "bytes_down"),
        lost=_total(rounds, "failures"),
        command=simulation_command(history),
    )


def read_picture(run: Path) -> bytes | None:
    """Return the picture of a run's partition; None if there is none."""
    try:
        with (run / PICTURE).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= _MOST_BYTES else None


def simulation_command(history: History) -> str | None:
    """Return the line for a shell that computes a simulated run again; None for other runs."""
    if history.environment["engine"].get("mode") != "simulate":
        return None
    defaults = leaves(Experiment().model_dump(mode="json", exclude_none=True))
    settings = leaves(history.experiment.model_dump(mode="json", exclude_none=True))
    words = ["roundel", "simulate"]
    for key, value in settings.items():
        if defaults.get(key) != value:
            words += ["-s", f"{key}={value_text(value)}"]
    return shlex.join(words)


def _metrics(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what there are curves of: accuracy and losses first."""
    names = [name for name in final_figures(rounds) if name not in _NOT_DRAWN]
    names += ["train_loss"] if any(line.get("train_loss") is not None for line in rounds) else []
    known = ("accuracy", "loss", "train_loss")
    return sorted(names, key=lambda n: known.index(n) if n in known else len(known))[:_MOST_METRICS]


def _band(label: str, metric: str, rounds: Sequence[Mapping[str, Any]]) -> Band:
    values = tuple(number(line.get(metric)) for line in rounds)
    sent = accumulate(_count(line, "bytes_up") + _count(line, "bytes_down") for line in rounds)
    nothing = (None,) * len(values)
    return Band(
        problem="",
        arm=label,
        metric=metric,
        seeds=1,
        rounds=tuple(float(line["round"]) for line in rounds),
        bytes=tuple(sent),
        seconds=tuple(accumulate(_count(line, "seconds") for line in rounds)),
        mean=values,
        low=nothing,
        high=nothing,
    )


def _count(line: Mapping[str, Any], key: str) -> float:
    return float(number(line.get(key)) or 0.0)


def _total(rounds: Sequence[Mapping[str, Any]], key: str) -> int:
    return int(sum(_count(line, key) for line in rounds))
