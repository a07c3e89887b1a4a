"""A comparison's report made by hand, so that every figure in it is known."""

from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import Said, command, load_comparison
from roundel.reports.arms import Row, Spread, ToTarget, Versus
from roundel.reports.bands import Band
from roundel.reports.comparison import ComparisonReport
from roundel.reports.statistics import Interval, interval, paired

ENVIRONMENT = {"roundel": "0.1.0", "python": "3.11.7", "engine": {"mode": "simulate"}}


def xs(line: Line2D) -> list[float]:
    """Where a line goes through, along the horizontal axis."""
    found: list[float] = np.asarray(line.get_xdata(), dtype=float).tolist()
    return found


def ys(line: Line2D) -> list[float]:
    """The same along the vertical axis."""
    found: list[float] = np.asarray(line.get_ydata(), dtype=float).tolist()
    return found


def made_comparison(arms: Sequence[str] = ("fedavg", "fedprox mu=0.1"), **said: Any) -> Comparison:
    """A comparison as the command line says it."""
    return load_comparison(None, Said(arms=arms, **said))


def made_report(
    arms: Sequence[str] = ("fedavg", "fedprox mu=0.1", "scaffold", "fedadam"),
    *,
    rounds: int = 40,
    path: Path = Path("comparison"),
    failed: Mapping[int, str] | None = None,
    findings: Sequence[str] = ("fedprox mu=0.1 is better than fedavg by 0.0100.",),
    notes: Sequence[str] = ("3 seeds cannot carry p-values; 5 can.",),
    **said: Any,
) -> ComparisonReport:
    """Arm number i ends at 0.8 + 0.01 i with seed 0, and 0.01 more with each seed after it."""
    comparison = made_comparison(arms, **said)
    labels = [arm.label for arm in comparison.arms]
    metrics, seeds = comparison.report.metrics, comparison.seeds
    rows, bands = [], []
    for problem in comparison.problems:
        for place, label in enumerate(labels):
            finals = {seed: 0.8 + 0.01 * (place + at) for at, seed in enumerate(seeds)}
            rows.append(
                _row(problem.label, label, place, dict.fromkeys(metrics, finals), failed or {})
            )
    for metric in metrics:
        for problem in comparison.problems:
            bands += [
                made_band(label, 0.8 + 0.01 * place, metric, rounds, problem=problem.label)
                for place, label in enumerate(labels)
            ]
    return ComparisonReport(
        path=path,
        comparison=comparison,
        rows=tuple(rows),
        bands=tuple(bands),
        findings=tuple(findings),
        notes=tuple(notes),
        environment=ENVIRONMENT,
        command=command(comparison),
        cells=len(rows) * len(seeds),
        finished=len(rows) * len(seeds),
    )


def _row(
    problem: str,
    arm: str,
    place: int,
    finals: Mapping[str, Mapping[int, float]],
    failed: Mapping[int, str],
) -> Row:
    means: dict[str, Interval | None] = {m: interval(list(v.values())) for m, v in finals.items()}
    base = {seed: value - 0.01 * place for seed, value in next(iter(finals.values())).items()}
    return Row(
        problem=problem,
        arm=arm,
        baseline=place == 0,
        tuned=place == 1,
        seeds=len(base),
        failed=failed if place == 2 else {},
        figures=means,
        finals=finals,
        versus={
            metric: Versus(paired=paired(values, base), holm=None) if place else None
            for metric, values in finals.items()
        },
        targets=(
            ToTarget(
                metric="accuracy",
                target=0.75,
                rounds=None if place == 3 else 12.0 + place,
                bytes=None if place == 3 else 1.2e6,
                seconds=None if place == 3 else 1.5,
                reached=0 if place == 3 else len(base),
                of=len(base),
            ),
        ),
        spread=Spread(
            worst10=0.3 + 0.02 * place,
            p10=0.5 + 0.02 * place,
            p50=0.8,
            p90=0.95,
            variance=0.04 - 0.002 * place,
        ),
        bytes_per_round=1e5 * (1 + (place == 2)),
        seconds_per_round=0.1,
        rounds=40.0,
    )


def made_band(
    arm: str,
    end: float,
    metric: str = "accuracy",
    rounds: int = 40,
    *,
    problem: str = "",
    width: float | None = 0.03,
) -> Band:
    """A curve that rises from 0.1 to its end."""
    at = tuple(float(round) for round in range(1, rounds + 1))
    mean = tuple(end - (end - 0.1) * exp(-round / (rounds / 8)) for round in at)
    return Band(
        problem=problem,
        arm=arm,
        metric=metric,
        seeds=3,
        rounds=at,
        bytes=tuple(1e5 * round for round in at),
        seconds=tuple(0.1 * round for round in at),
        mean=mean,
        low=tuple(None if width is None else value - width for value in mean),
        high=tuple(None if width is None else value + width for value in mean),
    )
