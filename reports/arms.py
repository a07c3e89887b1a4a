"""What became of each arm on each problem: figures, differences, targets, who did not finish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb, isfinite
from statistics import mean

from roundel.core.comparison import Arm, Comparison, Problem
from roundel.core.goals import goal_of
from roundel.reports.cells import CellRun
from roundel.reports.statistics import (
    LEVEL,
    SEEDS_FOR_P,
    Interval,
    Paired,
    Reached,
    final,
    holm,
    interval,
    median_to_target,
    paired,
    split_diverged,
    t_test,
    to_target,
)

OF_CLIENTS = {
    "worst10": "clients.accuracy.worst_tenth",
    "p10": "clients.accuracy.p10",
    "p50": "clients.accuracy.p50",
    "p90": "clients.accuracy.p90",
    "variance": "clients.accuracy.variance",
}
"""The figures that a `Spread` is made of, and the keys of a round's line that they are under."""

Finals = Mapping[str, Mapping[int, float | None]]
"""Metric to seed to final figure; None where it is not finite or was never measured."""

Group = tuple[str, str]
"""Labels of a problem and an arm."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the clients' own accuracies lie at the end of a run, as means over the seeds.

    Attributes:
        worst10: Mean over the worst tenth of the clients.
        p10: The accuracy that one client in ten stays below.
        p50: The median client's.
        p90: The accuracy that one client in ten exceeds.
        variance: Over the clients.
    """

    worst10: float
    p10: float
    p50: float
    p90: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class ToTarget:
    """What it cost to reach a target: medians over the seeds, None where half or more never did.

    Attributes:
        metric: Of which the target is a value.
        target: What was to be reached.
        rounds: Until then.
        bytes: Sent and received by clients until then.
        seconds: Until then, evaluation included.
        reached: How many seeds did.
        of: How many seeds have run; one that failed never reached it.
    """

    metric: str
    target: float
    rounds: float | None
    bytes: float | None
    seconds: float | None
    reached: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Versus:
    """An arm against the baseline, seed by seed.

    Attributes:
        paired: The arm minus the baseline.
        holm: The p-value corrected for all differences of the comparison in its first metric;
            None for other metrics, and with too few seeds.
    """

    paired: Paired
    holm: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of an arm on a problem.

    Attributes:
        problem: Its label; empty if there is only one.
        arm: Its label.
        baseline: Whether the others are compared with it.
        tuned: Whether its knobs were chosen by trials.
        best: Whether it is shown to be better than each other arm of its problem in the first
            metric, by intervals that hold for all pairs of all problems at once.
        seeds: How many finished.
        unfinished: Seeds that have not begun, or not ended.
        failed: Seed to why it failed.
        diverged: Seeds whose losses were not finite at the end; they count as finished.
        figures: Metric to the mean over the seeds that have a finite figure, with its interval;
            None if none has.
        finals: Metric to seed to the final figure of each seed that finished; None if it is not
            finite or was never measured.
        versus: Metric to the difference from the baseline; None for the baseline itself, and where
            no seed is in both.
        targets: What it cost to reach each target, in the report's order.
        spread: Over the clients' own accuracies; None if these were not measured.
        bytes_per_round: Sent and received by clients, mean over the seeds.
        seconds_per_round: Evaluation included, mean over the seeds.
        rounds: How many rounds were run, mean over the seeds.
    """

    problem: str
    arm: str
    baseline: bool
    tuned: bool
    best: bool = False
    seeds: int
    unfinished: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict[int, str])
    diverged: tuple[int, ...] = ()
    figures: Mapping[str, Interval | None]
    finals: Finals
    versus: Mapping[str, Versus | None]
    targets: tuple[ToTarget, ...] = ()
    spread: Spread | None = None
    bytes_per_round: float | None = None
    seconds_per_round: float | None = None
    rounds: float | None = None


def make_rows(comparison: Comparison, runs: Sequence[CellRun]) -> tuple[Row, ...]:
    """Return a row for each arm on each problem.

    Args:
        comparison: What was to be run.
        runs: What became of every cell, with the series of the report's metrics and of
            `OF_CLIENTS`.
    """
    groups: dict[Group, list[CellRun]] = {}
    for run in runs:
        groups.setdefault((run.cell.problem.label, run.cell.arm.label), []).append(run)
    finals = {group: _finals(comparison, theirs) for group, theirs in groups.items()}
    rows = [
        _row(comparison, problem, arm, groups[problem.label, arm.label], finals)
        for problem in comparison.problems
        for arm in comparison.arms
    ]
    return tuple(_with_best(comparison, _corrected(comparison, rows)))


def _finals(comparison: Comparison, runs: Sequence[CellRun]) -> Finals:
    return {
        metric: {
            run.cell.seed: _finite(final(run.series[metric], comparison.report.tail))
            for run in runs
            if run.state == "finished"
        }
        for metric in comparison.report.metrics
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _row(
    comparison: Comparison,
    problem: Problem,
    arm: Arm,
    runs: Sequence[CellRun],
    finals: Mapping[Group, Finals],
) -> Row:
    spec = comparison.report
    mine = finals[problem.label, arm.label]
    others = finals[problem.label, spec.baseline]
    done = [run for run in runs if run.state == "finished"]
    is_baseline = arm.label == spec.baseline
    return Row(
        problem=problem.label,
        arm=arm.label,
        baseline=is_baseline,
        tuned=arm.tuned,
        seeds=len(done),
        unfinished=tuple(run.cell.seed for run in runs if run.state == "unfinished"),
        failed={run.cell.seed: run.why for run in runs if run.state == "failed"},
        diverged=tuple(run.cell.seed for run in done if run.diverged),
        figures={metric: _figure(mine[metric]) for metric in spec.metrics},
        finals=mine,
        versus={
            metric: None if is_baseline else _versus(comparison, mine[metric], others[metric])
            for metric in spec.metrics
        },
        targets=tuple(_to_target(runs, *aim) for aim in spec.targets.items()),
        spread=_spread(done, spec.tail),
        bytes_per_round=_mean([run.bytes[-1] / len(run.bytes) for run in done if run.bytes]),
        seconds_per_round=_mean([run.seconds[-1] / len(run.bytes) for run in done if run.seconds]),
        rounds=_mean([float(len(run.rounds)) for run in done]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _figure(finals: Mapping[int, float | None]) -> Interval | None:
    finite, _ = split_diverged(finals)
    return interval(list(finite.values())) if finite else None


def _versus(
    comparison: Comparison, mine: Mapping[int, float | None], others: Mapping[int, float | None]
) -> Versus | None:
    """Compare with the baseline; nothing is tested where a seed is missing.

    Seeds that diverge are not missing by chance, and what is left says too much.
    """
    one, other = split_diverged(mine)[0], split_diverged(others)[0]
    if not one.keys() & other.keys():
        return None
    found = paired(one, other)
    if not set(comparison.seeds) <= one.keys() & other.keys():
        found = replace(found, p=None, resampled=None)
    return Versus(paired=found, holm=None)


def _to_target(runs: Sequence[CellRun], metric: str, target: float) -> ToTarget:
    counted = [run for run in runs if run.state != "unfinished"]

    def reached(run: CellRun, costs: Sequence[float]) -> Reached:
        if run.state == "failed":
            return Reached(0.0, censored=True)
        return to_target(costs, run.series[metric], target, goal_of(metric))

    rounds = [reached(run, run.rounds) for run in counted]
    return ToTarget(
        metric=metric,
        target=target,
        rounds=median_to_target(rounds),
        bytes=median_to_target([reached(run, run.bytes) for run in counted]),
        seconds=median_to_target([reached(run, run.seconds) for run in counted]),
        reached=sum(not each.censored for each in rounds),
        of=len(counted),
    )


def _spread(done: Sequence[CellRun], tail: float) -> Spread | None:
    means = {
        name: _mean([v for run in done if (v := _finite(final(run.series[key], tail))) is not None])
        for name, key in OF_CLIENTS.items()
    }
    known = {name: value for name, value in means.items() if value is not None}
    return Spread(**known) if len(known) == len(means) else None


def _corrected(comparison: Comparison, rows: Sequence[Row]) -> list[Row]:
    """Correct the p-values of the first metric for all differences, those without one included."""
    metric = comparison.report.metrics[0]
    tested = [(row, found) for row in rows if (found := row.versus[metric]) is not None]
    family = sum(not row.baseline for row in rows)
    ps = [1.0 if found.paired.p is None else found.paired.p for _, found in tested]
    corrected = holm([*ps, *[1.0] * (family - len(ps))])
    by_group = {
        (row.problem, row.arm): replace(found, holm=p)
        for (row, found), p in zip(tested, corrected, strict=False)
        if found.paired.p is not None
    }
    return [
        replace(row, versus={**row.versus, metric: by_group[row.problem, row.arm]})
        if (row.problem, row.arm) in by_group
        else row
        for row in rows
    ]


def _with_best(comparison: Comparison, rows: Sequence[Row]) -> list[Row]:
    """Mark on each problem the arm that is better than every other one, if there is any."""
    best = {
        (problem.label, _best(comparison, [row for row in rows if row.problem == problem.label]))
        for problem in comparison.problems
    }
    return [replace(row, best=(row.problem, row.arm) in best) for row in rows]


def _best(comparison: Comparison, rows: Sequence[Row]) -> str | None:
    """Return the arm of which all intervals of differences say that it is better.

    Which one looks best is known only afterwards, so that the intervals hold for all pairs of all
    problems at once: they have Bonferroni's level. Too few seeds for a p-value are too few for
    this, and equal differences are believed no more than `t_test` believes them.
    """
    metric = comparison.report.metrics[0]
    sign = 1.0 if goal_of(metric) == "max" else -1.0
    finals = {row.arm: split_diverged(row.finals[metric])[0] for row in rows}
    seeds = comparison.seeds
    alone, few = len(rows) == 1, len(seeds) < SEEDS_FOR_P
    if alone or few or any(set(seeds) - theirs.keys() for theirs in finals.values()):
        return None
    error = (1 - LEVEL) / (comb(len(finals), 2) * len(comparison.problems))

    def beats(one: str, other: str) -> bool:
        gains = [sign * (finals[one][seed] - finals[other][seed]) for seed in seeds]
        low = interval(gains, 1 - error).low
        return low is not None and low > 0 and t_test(gains) <= error

    for one in finals:
        if all(beats(one, other) for other in finals if other != one):
            return one
    return None
