"""What a population of a million clients costs over one of a thousand: time a round, and memory.

    python benchmarks/population.py

Both run the task `synthetic` with a cohort of 100, each in a process of its own, in turns.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from roundel.simulations import simulate

POPULATIONS = (1_000, 1_000_000)


def main() -> None:
    """Measure each population a few times and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, metavar="CLIENTS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.rounds)))
        return
    measured: dict[int, list[dict[str, float]]] = {clients: [] for clients in POPULATIONS}
    for _ in range(arguments.repeats):
        for clients in POPULATIONS:
            command = [sys.executable, __file__, "--one", str(clients)]
            command += ["--rounds", str(arguments.rounds)]
            ended = subprocess.run(  # noqa: S603 - this file itself
                command, check=True, capture_output=True, text=True
            )
            measured[clients].append(json.loads(ended.stdout.splitlines()[-1]))
    figures = {
        clients: {key: median(one[key] for one in runs) for key in runs[0]}
        for clients, runs in measured.items()
    }
    for clients, found in figures.items():
        print(
            f"{clients:>9,} clients: {found['round_s'] * 1000:7.1f} ms a round (median), "
            f"{found['peak_bytes'] / 1e6:6.1f} MB at most"
        )
    small, large = (figures[clients] for clients in POPULATIONS)
    print(
        f"more for the larger: {(large['round_s'] - small['round_s']) * 1000:.1f} ms a round, "
        f"{(large['peak_bytes'] - small['peak_bytes']) / 1e6:.1f} MB"
    )


def measure(clients: int, rounds: int) -> dict[str, float]:
    """Run one simulation in this process."""
    settings = [
        "task.name=synthetic",
        f"partition.clients={clients}",
        "cohort.size=100",
        "client.lr=0.01",
        "client.steps=5",
        "evaluation.clients=0",
        f"rounds={rounds}",
    ]
    with tempfile.TemporaryDirectory() as out:
        run = simulate(settings=settings, out=Path(out) / "run")
    return {
        "round_s": median(run.series("seconds")),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
