"""Start a contender in fresh processes, watch their memory, read its answer.

Needs Linux, whose ``/proc`` tells what processes take.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from contenders.jobs import ENDS, Job, now_s
from numpy.typing import NDArray

BENCHMARKS = Path(__file__).parents[1]
EVERY_S = 0.1
"""Seconds between two looks at the memory."""

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_LAST_LINES = 5


class ContenderFailed(Exception):
    """A contender's process ended without an answer; the message is what it said last."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was measured of one run.

    Attributes:
        round_seconds: Of each round but the first.
        cold_start_s: From the start of the process to the end of the first round.
        peak_rss_mb: Resident megabytes of all its processes together, at most; pages that several
            of them share count for each.
        weights: Parameters before and after the first round, shape ``(2, D)``, of a job with that
            round alone; None for others.
    """

    round_seconds: tuple[float, ...]
    cold_start_s: float
    peak_rss_mb: float
    weights: NDArray[np.float32] | None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def end_with_contenders() -> None:
    """Let a request to terminate this process end the contender that it watches, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def run(module: str, job: Job, python: str = sys.executable) -> Outcome:
    """Run a job in fresh processes.

    Args:
        module: The contender, a module beside this one.
        job: What to do; a folder is made for it.
        python: The interpreter to run it.

    Raises:
        ContenderFailed: It ended without an answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        placed = replace(job, folder=folder)
        log, ends = Path(folder) / "log.txt", Path(folder) / ENDS
        command = [python, "-m", f"contenders.{module}", placed.text()]
        began_s = now_s()
        peak_mb = _watch(command, log, folder)
        if not ends.is_file():
            last = log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise ContenderFailed("\n".join(last) or "it said nothing")
        ends_s = json.loads(ends.read_text())
        weights = np.load(placed.weights) if placed.weights.is_file() else None
    return Outcome(
        round_seconds=tuple(after - before for before, after in pairwise(ends_s)),
        cold_start_s=ends_s[0] - began_s,
        peak_rss_mb=peak_mb,
        weights=weights,
    )


def _watch(command: list[str], log: Path, folder: str) -> float:
    """Run a command to its end; return its largest resident memory in megabytes."""
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH")]))
    flower = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": folder}
    peak_mb = 0.0
    with (
        log.open("wb") as said,
        subprocess.Popen(  # noqa: S603 - our own scripts
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, **flower},
            cwd=BENCHMARKS,
            start_new_session=True,
        ) as process,
    ):
        try:
            while process.poll() is None:
                peak_mb = max(peak_mb, _resident_mb(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(EVERY_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has left behind
    return peak_mb


def _resident_mb(root: int) -> float:
    """Return the resident memory of a process and all below it, in megabytes."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                parent = int((entry / "stat").read_text().rsplit(") ", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    pages, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, ())
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE_MB
