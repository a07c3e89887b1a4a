"""Cells of a comparison made by hand: all that is known of a run are a few figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import Said, load_comparison
from roundel.core.config import Experiment
from roundel.reports.arms import OF_CLIENTS
from roundel.reports.cells import CellRun, Shared

SHARED = Shared(
    partition="p", model="m", cohorts=["a", "b"], answered=["a", "b"], steps=["5", "5"], work=5.0
)


def comparison(*arms: str, **said: Any) -> Comparison:
    """A comparison as the command line says it."""
    return load_comparison(None, Said(arms=arms, **said))


def run_with(figures: Mapping[str, Sequence[float | None]], **changes: Any) -> Mapping[str, Any]:
    """What a finished run of these series is made of; a round takes 100 bytes and 2 seconds."""
    count = len(next(iter(figures.values())))
    made: dict[str, Any] = {
        "state": "finished",
        "series": {**{key: [None] * count for key in OF_CLIENTS.values()}, **figures},
        "rounds": [1.0 + n for n in range(count)],
        "bytes": [100.0 * (1 + n) for n in range(count)],
        "seconds": [2.0 * (1 + n) for n in range(count)],
        "shared": SHARED,
        "experiment": Experiment(),
        "environment": {"torch": "2.13.0"},
    }
    return made | changes


def runs_of(comparison: Comparison, what: Callable[[str, int], Mapping[str, Any]]) -> list[CellRun]:
    """A run for each cell, by what its arm and its seed say."""
    return [CellRun(cell=cell, **what(cell.arm.label, cell.seed)) for cell in comparison.cells()]


def accuracies(
    comparison: Comparison, finals: Mapping[str, Sequence[float | None]]
) -> list[CellRun]:
    """Runs of one round each, by arm with the accuracy for each seed; None is one to run yet."""

    def what(arm: str, seed: int) -> Mapping[str, Any]:
        value = finals[arm][seed]
        return {"state": "unfinished"} if value is None else run_with({"accuracy": [value]})

    return runs_of(comparison, what)


def but(runs: Sequence[CellRun], arm: str, seed: int, **changes: Any) -> list[CellRun]:
    """The runs, but one of them otherwise."""
    return [
        replace(run, **changes) if (run.cell.arm.label, run.cell.seed) == (arm, seed) else run
        for run in runs
    ]
