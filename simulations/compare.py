"""Compare strategies: every arm on every problem with every seed, each an ordinary run.

>>> from roundel.core.comparisonfile import Said, load_comparison
>>> from roundel.simulations import compare
>>> said = Said(arms=["fedavg", "scaffold"], settings=["rounds=1"], seeds="1")
>>> path = compare(load_comparison(None, said), out=getfixture("tmp_path") / "both", workers=1)
>>> sorted(run.parent.name for run in path.glob("cells/*/seed-0"))
['fedavg', 'scaffold']
"""

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundel.core.comparison import Cell, Comparison, leaves
from roundel.core.comparisonfile import FILE, dump_comparison, load_comparison, read_comparison
from roundel.core.config import Experiment
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.files import PARTIAL, write_atomic, writing
from roundel.core.runfiles import FAILED, MODEL, is_run
from roundel.core.threads import available_cores
from roundel.simulations.cells import Job, OnEvent, run_jobs
from roundel.simulations.division import check_at_hand
from roundel.simulations.figures import check_figures
from roundel.simulations.partitions import PartitionReport, describe
from roundel.simulations.prepare import prepare
from roundel.simulations.ranks import is_launched
from roundel.simulations.simulate import new_run_path

_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The part of a comparison that one of several machines computes.

    Attributes:
        number: From 1.
        of: How many there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigError(
                f"there is no shard {self.number} of {self.of}; count from 1 up to {self.of}"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is about to be computed.

    Attributes:
        comparison: What is compared.
        path: Its directory.
        cells: Those of this shard.
        jobs: Their runs, in the same order.
        workers: How many are computed at once.
        divisions: How the examples lie at the clients with the first seed, by the label of the
            problem; empty if the comparison was begun before.
        finished: The jobs that need not be run again, by their place.
    """

    comparison: Comparison
    path: Path
    cells: Sequence[Cell]
    jobs: Sequence[Job]
    workers: int
    divisions: Mapping[str, PartitionReport]
    finished: frozenset[int]


OnPlan = Callable[[Plan], None]
"""Called once, before the first run."""


def compare(
    comparison: Comparison | None = None,
    *,
    out: Path | str | None = None,
    workers: int | None = None,
    shard: Shard = Shard(),
    on_plan: OnPlan | None = None,
    on_event: OnEvent | None = None,
) -> Path:
    """Run what a comparison compares; in a directory that has begun, what is left of it.

    A run that fails leaves the others alone, and says why in its directory.

    Args:
        comparison: What to compare; None for the default strategies on digits.
        out: Its directory; by default a new one under ``runs/``.
        workers: How many runs are computed at once; 1 for this process alone, by default one for
            each core.
        shard: Which of them.
        on_plan: Called before the first run.
        on_event: Called after each round and at the end of each run.

    Returns:
        The directory: `roundel.reports` makes tables and figures of it.

    Raises:
        ConfigError: A key or value of an arm or a problem is wrong; nothing was run.
        CompositionError: An arm's strategy contradicts itself or a problem; likewise.
        RunDirectoryError: The directory holds something else.
    """
    comparison = comparison or load_comparison()
    path = new_run_path(comparison.name) if out is None else Path(out)
    plan = planned(comparison, path, workers, shard)
    if on_plan is not None:
        on_plan(plan)
    run_jobs(plan.jobs, plan.workers, on_event or (lambda _event: None))
    return path


def still_to_run(path: Path) -> int:
    """Return how many runs of a comparison have neither finished nor failed.

    Args:
        path: Its directory.

    Raises:
        RunDirectoryError: It is not one.
    """
    runs = (path / cell.path for cell in read_comparison(path).cells())
    return sum(not ((run / MODEL).exists() or (run / FAILED).exists()) for run in runs)


def planned(comparison: Comparison, path: Path, workers: int | None, shard: Shard) -> Plan:
    """Check a comparison, unless that was done before, and write into its directory what it is."""
    if is_launched():
        raise ConfigError(
            "a comparison starts its own processes; start it without torchrun, and use --shard to "
            "divide it over several machines"
        )
    if (path / FILE).exists():
        _check_same(comparison, path)
        divisions: Mapping[str, PartitionReport] = {}
    else:
        divisions = checked(comparison)
        _claim(comparison, path)
    cells = [
        cell
        for number, cell in enumerate(comparison.cells())
        if number % shard.of == shard.number - 1
    ]
    experiments = [comparison.experiment(cell) for cell in cells]
    if workers is None:
        workers = _fitting(experiments)
    jobs = [
        Job(
            path=path / cell.path,
            experiment=_beside(experiment, workers),
            metrics=comparison.report.metrics,
        )
        for cell, experiment in zip(cells, experiments, strict=True)
    ]
    return Plan(
        comparison=comparison,
        path=path,
        cells=cells,
        jobs=jobs,
        workers=workers,
        divisions=divisions,
        finished=frozenset(place for place, job in enumerate(jobs) if job.is_finished),
    )


def checked(comparison: Comparison) -> dict[str, PartitionReport]:
    """Prepare every arm on every problem once, to find what is wrong before anything is run.

    Returns:
        How the examples lie at the clients with the first seed, by the label of the problem.

    Raises:
        ConfigError: A key, a value, a metric or a target is wrong.
        CompositionError: A strategy contradicts itself or the experiment.
        DataError: Data cannot be read or divided.
    """
    divisions = {}
    for problem in comparison.problems:
        for arm in comparison.arms:
            experiment = comparison.experiment_of(problem, arm, comparison.seeds[0])
            check_at_hand(experiment, "a comparison")
            simulation = prepare(experiment)
            if problem.label not in divisions:
                check_figures(simulation, comparison.report.metrics)
                seed = experiment.seed_for("data")
                divisions[problem.label] = describe(simulation.population, seed)
    return divisions


def _fitting(experiments: Sequence[Experiment]) -> int:
    """Return how many runs at once fit this machine: all on a GPU, or one for each core."""
    if any(experiment.engine.device != "cpu" for experiment in experiments):
        return 1
    widest = max(
        (
            experiment.engine.threads
            * (1 if experiment.engine.workers == "auto" else experiment.engine.workers)
            for experiment in experiments
        ),
        default=1,
    )
    return max(1, min(len(experiments), available_cores() // widest))


def _beside(experiment: Experiment, workers: int) -> Experiment:
    """Return an experiment that leaves the other cores to the runs beside it; same bits."""
    if workers == 1 or experiment.engine.workers != "auto":
        return experiment
    engine = experiment.engine.model_copy(update={"workers": 1})
    return experiment.model_copy(update={"engine": engine})


def _claim(comparison: Comparison, path: Path) -> None:
    """Make a directory that of a comparison, unless another process has just done the same."""
    if path.exists() and (is_run(path) or not path.is_dir() or _is_foreign(path)):
        raise RunDirectoryError(f"{path} is not an empty directory; choose another one with --out")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if not (path / FILE).exists():
            write_atomic(path / FILE, dump_comparison(comparison).encode())
    _check_same(comparison, path)


def _is_foreign(path: Path) -> bool:
    """Tell whether there is something in a directory that no comparison has left there."""
    with writing(path):
        found = [each for each in path.iterdir() if not each.match(PARTIAL)]
    return not {each.name for each in found} <= {FILE, _LOCK, "cells"}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is about to write what a directory compares."""
    with writing(path), (path / _LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_same(comparison: Comparison, path: Path) -> None:
    """Refuse to go on in the directory of another comparison.

    Raises:
        RunDirectoryError: It is one.
    """
    here, there = _said(comparison), _said(read_comparison(path))
    for key in {**there, **here}:
        if here.get(key) != there.get(key):
            raise RunDirectoryError(
                f"{path} holds another comparison: {key} is {there.get(key, 'not set')} there and "
                f"{here.get(key, 'not set')} here; go on with that one by `roundel compare --out "
                f"{path}`, or choose another directory with --out"
            )


def _said(comparison: Comparison) -> dict[str, Any]:
    """Return everything that a comparison says, flat."""
    spec = comparison.report
    return {
        "name": comparison.name,
        "seeds": list(comparison.seeds),
        "arms": [arm.label for arm in comparison.arms],
        **leaves(comparison.base),
        **{f"grid.{key}": list(values) for key, values in comparison.grid.items()},
        **{
            f"{a.label}: {key}": value for a in comparison.arms for key, value in a.settings.items()
        },
        "tuned": [arm.label for arm in comparison.arms if arm.tuned],
        "report.baseline": spec.baseline,
        "report.metrics": list(spec.metrics),
        "report.tail": spec.tail,
        **{f"report.targets.{metric}": value for metric, value in spec.targets.items()},
    }
