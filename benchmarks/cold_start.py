"""How long a user waits from pressing enter to the first finished round.

    python benchmarks/cold_start.py [RUNS]

Each run is a new process with the defaults; what is printed is the median, and each one.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_to_first_round() -> float:
    """Start the command and wait for its line about the first round."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "roundel.cli",
            "simulate",
            "--out",
            str(Path(place) / "run"),
        ]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
            lines = iter(process.stdout or ())
            found = any(line.startswith("round 1/") for line in lines)
            seconds = time.perf_counter() - began
            process.kill()
    if not found:
        raise SystemExit("the command ended without a first round")
    return seconds


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    taken = [seconds_to_first_round() for _ in range(runs)]
    each = " ".join(f"{seconds:.2f}" for seconds in taken)
    print(f"first round after {statistics.median(taken):.2f} s (median of {each})")


if __name__ == "__main__":
    main()
