"""Whether memory and speed hold over many runs of one comparison.

    python benchmarks/comparison.py
    python benchmarks/comparison.py --cells 200 --jobs 2 --json

Four strategies on digits, ten rounds a run, as many seeds as it takes, in one process or on forks
of it. After each run: how long it took, and the resident memory of this process and its forks. The
first quarter of the runs is compared with the last one, in which all arms are as often. Then
`write_comparison` makes the report, and is measured too.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from roundel.core.arms import STRATEGIES
from roundel.core.comparisonfile import Said, load_comparison
from roundel.reports.write import write_comparison
from roundel.simulations import compare
from roundel.simulations.cells import Event, RunEnded

_MB = 1e6
_SETTINGS = ("rounds=10", "partition.alpha=0.1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One run.

    Attributes:
        seconds: How long it took.
        memory_mb: Resident memory after it, of this process and its forks together.
    """

    seconds: float
    memory_mb: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What has come out.

    Attributes:
        cells: How many runs there were.
        first_s: Median seconds of a run in the first quarter.
        last_s: The same of the last quarter.
        first_mb: Median memory after a run in the second eighth, once everything is loaded.
        last_mb: The same of the last eighth.
        report_s: How long the report took.
    """

    cells: int
    first_s: float
    last_s: float
    first_mb: float
    last_mb: float
    report_s: float


def resident_mb() -> float:
    """Return the resident memory of this process and its children."""
    me = os.getpid()
    mine = [me, *(process for process in _processes() if _parent(process) == me)]
    return sum(map(_resident, mine)) / _MB


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return 0


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def measured(cells: int, jobs: int, path: Path) -> list[Sample]:
    """Run a comparison of so many runs, and look after each of them."""
    samples = []

    def look(event: Event) -> None:
        if isinstance(event, RunEnded):
            samples.append(Sample(seconds=event.seconds, memory_mb=resident_mb()))

    seeds = str(cells // len(STRATEGIES))
    said = Said(arms=STRATEGIES, settings=_SETTINGS, seeds=seeds)
    compare(load_comparison(said=said), out=path, workers=jobs, on_event=look)
    return samples


def outcome(samples: Sequence[Sample], report_s: float) -> Outcome:
    """Compare the beginning with the end."""
    quarter, eighth = len(samples) // 4, len(samples) // 8
    return Outcome(
        cells=len(samples),
        first_s=median(sample.seconds for sample in samples[:quarter]),
        last_s=median(sample.seconds for sample in samples[-quarter:]),
        first_mb=median(sample.memory_mb for sample in samples[eighth : 2 * eighth]),
        last_mb=median(sample.memory_mb for sample in samples[-eighth:]),
        report_s=report_s,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--cells", type=int, default=60, help="how many runs, a multiple of 4 from 32"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--json", action="store_true", help="print one object")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "comparison"
        samples = measured(said.cells, said.jobs, path)
        began = time.perf_counter()
        write_comparison(path)
        found = outcome(samples, time.perf_counter() - began)
    if said.json:
        print(json.dumps({**asdict(found), "samples": [asdict(sample) for sample in samples]}))
        return
    print(
        f"{found.cells} runs: {found.first_s:.2f} s a run at first, {found.last_s:.2f} s at last; "
        f"{found.first_mb:.0f} MB at first, {found.last_mb:.0f} MB at last; the report took "
        f"{found.report_s:.1f} s"
    )


if __name__ == "__main__":
    main()
