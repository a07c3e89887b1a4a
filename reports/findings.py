"""What came out of a comparison, in sentences that say no more than its intervals."""

from collections.abc import Iterator, Sequence

from roundel.core.comparison import Comparison
from roundel.core.goals import goal_of
from roundel.reports.arms import Row, Versus
from roundel.reports.interval_text import decimal, p_text, places, with_interval
from roundel.reports.statistics import Interval

ALPHA = 0.05
"""What a corrected p-value must not exceed for a difference to be called one."""


def findings(comparison: Comparison, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a sentence for each arm against the baseline, and one about the best on each problem.

    Args:
        comparison: What was to be run.
        rows: What became of it.
    """
    said: list[str] = []
    for problem in comparison.problems:
        theirs = [row for row in rows if row.problem == problem.label]
        where = f"{problem.label}: " if problem.label else ""
        said += [where + sentence for sentence in _of_problem(comparison, theirs)]
    return tuple(said)


def _of_problem(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    metric = comparison.report.metrics[0]
    compared = [(row.arm, found) for row in rows if (found := row.versus[metric]) is not None]
    digits = places(found.paired.difference for _, found in compared)
    for arm, found in compared:
        if found.paired.difference.count < len(comparison.seeds):
            yield _of_some_seeds(arm, comparison, metric, found.paired.difference, digits)
        else:
            yield _against(arm, comparison.report.baseline, metric, found, digits)
    best = [row.arm for row in rows if row.best]
    if best:
        yield f"{best[0]} is better than each of the others in {metric} (95% over all pairs)"
    elif len(compared) > 1:
        yield f"no arm is shown to be better in {metric} than each of the others"


def _of_some_seeds(
    arm: str, comparison: Comparison, metric: str, difference: Interval, digits: int
) -> str:
    """Say what is left of a difference, and conclude nothing: seeds do not go missing by chance."""
    shown = decimal(difference.mean, digits, signed=True)
    return (
        f"{arm} differs from {comparison.report.baseline} by {shown} in {metric} over the "
        f"seeds that both have a figure for ({difference.count} of {len(comparison.seeds)}); as "
        "long as others are missing, that shows nothing"
    )


def _against(arm: str, baseline: str, metric: str, found: Versus, digits: int) -> str:
    difference = found.paired.difference
    if difference.count == 1:
        by = decimal(difference.mean, digits, signed=True)
        return f"{arm} differs from {baseline} by {by} in {metric} with the one seed that both have"
    if difference.low == difference.high == 0:
        return f"{arm} and {baseline} have the same {metric} with each seed"
    basis = f"paired, {difference.count} seeds"
    if found.holm is not None:
        p = p_text(found.holm)
        basis += f", Holm p {p}" if p.startswith("<") else f", Holm p = {p}"
    if not is_told_apart(found):
        shown = with_interval(difference, digits, signed=True)
        return f"{arm} cannot be told from {baseline} in {metric}: {shown} ({basis})"
    gains = _gains(difference, metric)
    sure = found.holm is not None
    if gains.mean > 0:
        verb = "is better than" if sure else "is ahead of"
    else:
        verb, gains = "is worse than" if sure else "is behind", _turned(gains)
    return f"{arm} {verb} {baseline} by {with_interval(gains, digits)} in {metric} ({basis})"


def is_told_apart(found: Versus) -> bool:
    """Tell whether a difference is shown.

    With a p-value it is what counts, once corrected. Without one it is the interval, and nothing
    is corrected.
    """
    low, high = found.paired.difference.low, found.paired.difference.high
    if found.holm is not None:
        return found.holm <= ALPHA
    return low is not None and high is not None and not low <= 0 <= high


def _gains(difference: Interval, metric: str) -> Interval:
    """Return by how much an arm is better."""
    return difference if goal_of(metric) == "max" else _turned(difference)


def _turned(found: Interval) -> Interval:
    low, high = found.low, found.high
    return Interval(
        mean=-found.mean,
        low=None if high is None else -high,
        high=None if low is None else -low,
        count=found.count,
    )
