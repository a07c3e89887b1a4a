"""What a simulated round costs as it grows: seconds for each client, and peak memory.

    python benchmarks/scale.py
    python benchmarks/scale.py --axes cohort workers --full --plot scale.png
    python benchmarks/scale.py --executor loop --json > points.jsonl

One thing grows at a time, along

    cohort       clients a round, of 10,000 there are
    population   clients there are, 100 of them a round
    model        parameters: a perceptron 64-H-H-10 with 20 clients a round
    workers      processes that share the work of 200 clients a round, up to one for each core

and everywhere else the model is a perceptron 64-64-10 and every client takes 10 steps of 32 of its
320 examples. Each point is a fresh process with one worker, unless workers are the axis; the median
of its rounds but the first counts. A hundred clients have tensors of their own, which the others
share, so that the memory is the engine's and not that of made-up data. Needs ``roundel[report]``.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from contenders.jobs import Job, Workload, positive
from contenders.processes import ContenderFailed, cores, end_with_contenders, run
from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing to measure.

    Attributes:
        axis: What grows.
        value: How large it is here.
        workload: What a round trains.
        workers: Processes that share it.
    """

    axis: str
    value: int
    workload: Workload
    workers: int = 1


def workload_of(cohort: int, population: int, widths: tuple[int, ...] = (64, 64, 10)) -> Workload:
    """Return a workload whose clients take 10 steps."""
    return Workload(
        name="scale",
        widths=widths,
        examples=320,
        batch=32,
        cohort=cohort,
        population=population,
        distinct=100,
    )


def parameters_of(widths: Sequence[int]) -> int:
    """Count a perceptron's weights and biases."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def cohort_points(*, full: bool) -> list[Point]:
    """Return rounds of more and more clients."""
    sizes = (10, 30, 100, 300, 1_000, 3_000, 10_000) if full else (10, 100, 1_000, 10_000)
    return [Point(axis="cohort", value=n, workload=workload_of(n, 10_000)) for n in sizes]


def population_points(*, full: bool) -> list[Point]:
    """Return populations of more and more clients."""
    sizes = (1_000, 10_000, 100_000, 1_000_000) if full else (1_000, 1_000_000)
    return [Point(axis="population", value=n, workload=workload_of(100, n)) for n in sizes]


def model_points(*, full: bool) -> list[Point]:
    """Return models of more and more parameters."""
    hidden = (16, 64, 256, 1024, 3072) if full else (16, 128, 1024)
    shapes = [(64, units, units, 10) for units in hidden]
    return [
        Point(axis="model", value=parameters_of(widths), workload=workload_of(20, 1_000, widths))
        for widths in shapes
    ]


def workers_points(*, full: bool) -> list[Point]:
    """Return more and more processes: all counts, or powers of two and one for each core."""
    every = range(1, cores() + 1)
    counts = every if full else [n for n in every if n & (n - 1) == 0 or n == cores()]
    workload = workload_of(200, 1_000)
    return [Point(axis="workers", value=n, workload=workload, workers=n) for n in counts]


AXES = {
    "cohort": cohort_points,
    "population": population_points,
    "model": model_points,
    "workers": workers_points,
}
LABELS = {
    "cohort": "clients a round",
    "population": "clients there are",
    "model": "parameters",
    "workers": "processes",
}


def measure(point: Point, given: argparse.Namespace) -> dict[str, Any]:
    """Run one point in fresh processes.

    Raises:
        ContenderFailed: It ended without an answer.
    """
    job = Job(
        workload=point.workload,
        folder="",
        rounds=given.rounds,
        workers=point.workers,
        executor=given.executor,
        device=given.device,
    )
    outcome = run("engine", job)
    seconds = median(outcome.round_seconds)
    return {
        "axis": point.axis,
        "value": point.value,
        "cohort": point.workload.cohort,
        "population": point.workload.population,
        "parameters": parameters_of(point.workload.widths),
        "workers": point.workers,
        "executor": given.executor,
        "seconds_per_round": round(seconds, 6),
        "seconds_per_client": round(seconds / point.workload.cohort, 9),
        "peak_rss_mb": round(outcome.peak_rss_mb, 1),
        "cold_start_s": round(outcome.cold_start_s, 3),
    }


HEADER = f"{'s/round':>10} {'ms/client':>10} {'peak MB':>8} {'cold start s':>12}"


def line(row: Mapping[str, Any]) -> str:
    """Return a row of a table."""
    return (
        f"{row['value']:12,} {row['seconds_per_round']:10.4f} "
        f"{row['seconds_per_client'] * 1e3:10.3f} {row['peak_rss_mb']:8.0f} "
        f"{row['cold_start_s']:12.2f}"
    )


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every axis: seconds for each client above, peak memory below.

    Args:
        rows: What was measured.
        path: Where the picture goes, as PNG.
    """
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(3.2 * len(axes), 5.5), layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        along = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in along]
        above, below = grid[:, column]
        above.plot(values, [row["seconds_per_client"] for row in along], marker="o")
        below.plot(values, [row["peak_rss_mb"] for row in along], marker="o")
        scale = "linear" if axis == "workers" else "log"
        above.set(xscale=scale, yscale="log")
        below.set(xscale=scale, xlabel=LABELS[axis])
        if axis == "workers":
            below.set_xticks(values)
    grid[1, 0].set_ylim(bottom=0)
    grid[0, 0].set_ylabel("seconds a client and round")
    grid[1, 0].set_ylabel("peak memory, MB")
    figure.savefig(path, format="png", dpi=150)


def parser() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    made.add_argument("--full", action="store_true", help="more points along each axis")
    made.add_argument("--executor", default="auto", help="engine.executor (default: auto)")
    made.add_argument("--device", default="cpu", help="engine.device (default: cpu)")
    made.add_argument(
        "--rounds", type=positive, default=3, help="timed rounds a point (default: 3)"
    )
    made.add_argument("--json", action="store_true", help="print one object a point, no tables")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw the points, as PNG")
    return made


def main() -> None:
    """Measure and print."""
    given = parser().parse_args()
    end_with_contenders()
    rows = []
    for axis in given.axes:
        if not given.json:
            print(f"{axis:>12} {HEADER}", flush=True)
        for point in AXES[axis](full=given.full):
            try:
                rows.append(measure(point, given))
            except ContenderFailed as failed:
                sys.exit(f"{axis} = {point.value:,}: {failed}")
            print(json.dumps(rows[-1]) if given.json else line(rows[-1]), flush=True)
    if given.plot:
        draw(rows, given.plot)


if __name__ == "__main__":
    main()
