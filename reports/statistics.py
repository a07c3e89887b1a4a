"""What a few seeds can say: means with intervals, paired differences, corrected p-values, targets.

Everything here is a function of numbers alone. Seeds are the unit: a strategy has one number for
each, and two strategies that ran with the same seeds are compared seed by seed, since they share
partition, initial model and cohorts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, isfinite, sqrt
from statistics import mean, stdev

import numpy as np
from scipy import stats

from roundel.core.goals import Goal

LEVEL = 0.95
"""Of all intervals."""

TAIL = 0.05
"""The share of rounds, at the end of a run, whose mean is its final figure."""

SEEDS_FOR_P = 5
"""With fewer seeds nothing can be said about whether differences are normal, on which a t test's
tails rest, and resampling so few numbers makes intervals that are much too short: of three normal
ones they hold the true mean 73 times in a hundred, where 95 are promised."""

RESAMPLES = 9_999

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where the true one may lie.

    Attributes:
        mean: Over the seeds.
        low: Lower end; None if there are too few seeds.
        high: Upper end.
        count: How many seeds.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How much one strategy differs from another with the same seeds.

    Attributes:
        difference: Mean of one minus the other, with the interval of Student's t.
        resampled: The bias-corrected and accelerated bootstrap interval; None with too few seeds.
        p: Of the paired t test, two-sided; None with too few seeds.
    """

    difference: Interval
    resampled: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True)
class Reached:
    """When a run reached a target.

    Attributes:
        at: There, or, if it never did, where it ended.
        censored: Whether it never did.
    """

    at: float
    censored: bool = False


def final(series: Sequence[float | None], tail: float = TAIL) -> float | None:
    """Return a run's final figure: the mean over its last rounds.

    Args:
        series: The figure after each round; None where it was not measured.
        tail: Which share of the rounds counts, at least one.

    Returns:
        The mean of what was measured there, or the last that was; None if nothing ever was. It is
        not finite if one of them is not.
    """
    last = series[-ceil(tail * len(series)) :] if series else ()
    measured = [value for value in last if value is not None]
    if not measured:
        measured = [value for value in series if value is not None][-1:]
    return mean(measured) if measured else None


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of normal values with the interval of Student's t.

    Args:
        values: One a seed, at least one; all finite.
        level: How often such intervals hold the true mean.
    """
    count, middle = len(values), mean(values)
    if count < 2:  # noqa: PLR2004 - one number has no spread
        return Interval(mean=middle, low=None, high=None, count=count)
    half = _quantile((1 + level) / 2, count - 1) * stdev(values) / sqrt(count)
    return Interval(mean=middle, low=middle - half, high=middle + half, count=count)


@cache
def _quantile(at: float, freedom: int) -> float:
    """Return a quantile of Student's t; scipy takes long for one, and curves ask for many."""
    return float(stats.t.ppf(at, freedom))


def paired(one: Mapping[int, float], other: Mapping[int, float], level: float = LEVEL) -> Paired:
    """Compare two strategies over the seeds that both have.

    Args:
        one: Seed to figure.
        other: The same of the one that is subtracted.
        level: Of the intervals.

    Raises:
        ValueError: They share no seed.
    """
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise ValueError("no seed is in both")
    differences = [one[seed] - other[seed] for seed in seeds]
    enough = len(seeds) >= SEEDS_FOR_P
    return Paired(
        difference=interval(differences, level),
        resampled=_resampled(differences, level) if enough else None,
        p=t_test(differences) if enough else None,
    )


def t_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the hypothesis that the mean of two numbers or more is 0.

    Where all differences are the same, t is infinite, which nobody should believe of a few seeds;
    then it is that of the sign test, as small as their number allows.
    """
    if _constant(differences):
        return 1.0 if differences[0] == 0.0 else 2.0 ** (1 - len(differences))
    t = mean(differences) / (stdev(differences) / sqrt(len(differences)))
    return float(2 * stats.t.sf(abs(t), len(differences) - 1))


def _constant(differences: Sequence[float]) -> bool:
    """Tell whether differences differ by no more than rounding."""
    return stdev(differences) <= _ROUNDING * abs(mean(differences))


def _resampled(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Return the BCa interval of the mean (Efron 1987), the same each time."""
    if _constant(differences):
        return differences[0], differences[0]
    found = stats.bootstrap(
        (np.asarray(differences),),
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for being a family (Holm 1979), in the order given.

    Whoever rejects what is at most alpha errs in one or more of the family with at most that
    probability.
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def to_target(
    costs: Sequence[float], series: Sequence[float | None], target: float, goal: Goal
) -> Reached:
    """Return what a run had cost when it first reached a target.

    Args:
        costs: What had been spent by the end of each round, rising: rounds, bytes or seconds.
        series: The figure after each round; None where it was not measured.
        target: What is to be reached.
        goal: Whether by rising or by falling.
    """
    for cost, value in zip(costs, series, strict=True):
        if value is not None and (value >= target if goal == "max" else value <= target):
            return Reached(cost)
    return Reached(costs[-1] if costs else 0.0, censored=True)


def median_to_target(reached: Sequence[Reached]) -> float | None:
    """Return the median over seeds; None if at most half of them ever reached the target.

    A run that did not counts as one that takes longer than any other: it is never left out. With
    an even number it is the lower one of the two in the middle.
    """
    arrived = sorted(each.at for each in reached if not each.censored)
    if 2 * len(arrived) <= len(reached):
        return None
    return arrived[(len(reached) - 1) // 2]


def split_diverged(
    figures: Mapping[int, float | None],
) -> tuple[dict[int, float], list[int]]:
    """Separate the seeds with a finite figure from those that diverged or have none.

    Args:
        figures: Seed to final figure.

    Returns:
        Those with one, and the seeds of the others, which are to be counted beside the mean.
    """
    finite = {s: v for s, v in figures.items() if v is not None and isfinite(v)}
    return finite, sorted(figures.keys() - finite.keys())
