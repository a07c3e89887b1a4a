"""Curves over seeds: the mean of a metric after each round, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean

from roundel.core.comparison import Comparison
from roundel.reports.cells import CellRun
from roundel.reports.statistics import Interval, interval


@dataclass(frozen=True, kw_only=True)
class Band:
    """A curve: a metric after each round in which all seeds measured it.

    Attributes:
        problem: Its label; empty if there is only one.
        arm: Its label.
        metric: What is drawn.
        seeds: How many seeds are in it: all that have finished.
        rounds: Where it was measured.
        bytes: Sent and received by clients until then, mean over the seeds.
        seconds: Until then, evaluation included, mean over the seeds.
        mean: Over the seeds; None where one of them is not finite.
        low: Lower end of the 95 % interval; None where there is none.
        high: Upper end.
    """

    problem: str
    arm: str
    metric: str
    seeds: int
    rounds: tuple[float, ...]
    bytes: tuple[float, ...]
    seconds: tuple[float, ...]
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def make_bands(comparison: Comparison, runs: Sequence[CellRun]) -> tuple[Band, ...]:
    """Return the curves of all arms that have finished with some seed.

    Args:
        comparison: What was to be run.
        runs: What became of every cell, with the series of the report's metrics.
    """
    groups: dict[tuple[str, str], list[CellRun]] = {}
    for run in runs:
        if run.state == "finished":
            groups.setdefault((run.cell.problem.label, run.cell.arm.label), []).append(run)
    return tuple(
        _band(problem.label, arm.label, metric, groups[problem.label, arm.label])
        for metric in comparison.report.metrics
        for problem in comparison.problems
        for arm in comparison.arms
        if (problem.label, arm.label) in groups
    )


def _band(problem: str, arm: str, metric: str, runs: Sequence[CellRun]) -> Band:
    series = [run.series[metric] for run in runs]
    common = min(map(len, series))
    measured = [at for at in range(common) if all(each[at] is not None for each in series)]
    values = [[value for each in series if (value := each[at]) is not None] for at in measured]
    found = [_interval(at_once) for at_once in values]
    return Band(
        problem=problem,
        arm=arm,
        metric=metric,
        seeds=len(runs),
        rounds=tuple(runs[0].rounds[at] for at in measured),
        bytes=tuple(mean(run.bytes[at] for run in runs) for at in measured),
        seconds=tuple(mean(run.seconds[at] for run in runs) for at in measured),
        mean=tuple(None if each is None else each.mean for each in found),
        low=tuple(None if each is None else each.low for each in found),
        high=tuple(None if each is None else each.high for each in found),
    )


def _interval(values: Sequence[float]) -> Interval | None:
    return interval(values) if all(map(isfinite, values)) else None
