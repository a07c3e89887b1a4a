"""What a round of a real federation costs beside its training: Roundel, and Flower's SuperLink.

    python benchmarks/federation.py
    python benchmarks/federation.py --megabytes 100 --rounds 5
    python benchmarks/federation.py --flower-python other-venv/bin/python --json > rows.jsonl

A coordinator and four nodes run on this machine, each in a process of its own. A node adds 1 to
each parameter of the model that it is sent, and sends it back. The contenders are

    roundel            `roundel serve` and `roundel join`, as they come: mutual TLS, every update
                       durable before it is acknowledged, a checkpoint each round
    roundel-insecure   the same with --insecure
    flower             flower-superlink and flower-supernode with --insecure, as they come

The table says, for each contender and model: median seconds from the end of a round to the end of
the next (the first is left out), and the largest resident memory of the coordinator's process.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

BENCHMARKS = Path(__file__).parent
CONTENDERS = ("roundel", "roundel-insecure", "flower")
LIMIT_S = 600.0
BYTES = 4
"""Of a parameter."""

SOONEST_S, PRECISION = 0.002, 0.01
"""How often is looked whether a round is over: in seconds, and in parts of a round."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run.

    Attributes:
        nodes: How many.
        rounds: How many are timed; one more is run.
        numbers: Parameters of the model.
    """

    nodes: int
    rounds: int
    numbers: int

    @property
    def megabytes(self) -> float:
        """Size of the model."""
        return self.numbers * BYTES / 1e6


class Failed(Exception):
    """A contender's process ended early; the message is what it said last."""


class Processes:
    """The processes of one contender; each leads a group, which ends with this object."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._variables = {**os.environ, **variables}
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a process; what it says goes to a file under its name."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                [str(word) for word in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._variables,
                cwd=BENCHMARKS,
                start_new_session=True,
            )
        self._started.append((process, log))
        return process

    def wait_for(self, path: Path) -> None:
        """Wait until a file has content.

        Raises:
            Failed: A process ended with an error, or it takes too long.
        """
        limit_s = time.monotonic() + LIMIT_S
        while not (path.is_file() and path.stat().st_size):
            self.check()
            if time.monotonic() > limit_s:
                raise Failed(f"nothing came in {LIMIT_S:g} s: {self.last_words()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise `Failed` if one of them has ended with an error."""
        for process, log in self._started:
            if process.poll():
                raise Failed(f"{log.name}: {_tail(log)}")

    def last_words(self) -> str:
        """Return what each said last."""
        return "; ".join(f"{log.name}: {_tail(log)}" for _, log in self._started)

    def end(self) -> None:
        """End all of them."""
        for process, _ in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def processes(**variables: str) -> Iterator[tuple[Path, Processes]]:
    """Yield a new folder, and what starts processes that end with the block."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH")]))
        running = Processes(folder, {"PYTHONPATH": path, **variables})
        try:
            yield folder, running
        finally:
            running.end()


def run_roundel(
    job: Job, *, insecure: bool, node: str = "roundel.cli", **variables: str
) -> dict[str, Any]:
    """Run a job with Roundel; return what was measured.

    Args:
        job: What to run.
        insecure: Whether to do without TLS.
        node: The module that is run for a node.
        variables: Of the environment of all processes.
    """
    with processes(**variables) as (folder, running):
        port = free_port()
        out, token = folder / "run", folder / "token"
        roundel = [sys.executable, "-m", "roundel.cli"]
        task = "contenders.payload:task"
        settings = [
            f"task.name={task}",
            f"task.numbers={job.numbers}",
            f"rounds={job.rounds + 1}",
            f"partition.clients={job.nodes}",
            f"cohort.size={job.nodes}",
            f"cohort.quorum={job.nodes}",
            "evaluation.clients=0",
        ]
        secured = ["--insecure"] if insecure else ["--authority", folder / "authority"]
        coordinator = running.start(
            "coordinator",
            *roundel,
            "serve",
            *(f"-s{setting}" for setting in settings),
            f"--listen=127.0.0.1:{port}",
            *("--out", out),
            *secured,
            *(() if insecure else ("--token-file", token)),
        )
        if not insecure:
            running.wait_for(token)
        for number in range(1, job.nodes + 1):
            running.start(
                f"node-{number}",
                *(sys.executable, "-m", node),
                *("join", f"127.0.0.1:{port}", f"--partition={number}/{job.nodes}"),
                *(f"--name=node-{number}", f"--state={folder / f'node-{number}'}"),
                f"--allow={task}",
                *(("--insecure",) if insecure else (f"--token=@{token}",)),
            )
        ends_s, peak_mb = _watch_rounds(running, coordinator.pid, out / "metrics.jsonl", job)
    return _row("roundel-insecure" if insecure else "roundel", job, ends_s, peak_mb)


def _watch_rounds(
    running: Processes, pid: int, metrics: Path, job: Job
) -> tuple[list[float], float]:
    """Return when each round was recorded, and the coordinator's largest memory in megabytes."""
    ends_s: list[float] = []
    peak_mb, pause_s = 0.0, SOONEST_S
    limit_s = time.monotonic() + LIMIT_S
    while len(ends_s) <= job.rounds:
        running.check()
        peak_mb = max(peak_mb, peak_resident_mb(pid))
        done = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
        ends_s += [time.perf_counter()] * (done - len(ends_s))
        if time.monotonic() > limit_s:
            raise Failed(f"{done} rounds in {LIMIT_S:g} s: {running.last_words()}")
        if len(ends_s) > 1:  # to look more often would take time from those that are watched
            pause_s = max(SOONEST_S, PRECISION * (ends_s[-1] - ends_s[-2]))
        time.sleep(pause_s)
    return ends_s, peak_mb


def run_flower(job: Job, python: Path) -> dict[str, Any]:
    """Run a job with Flower's SuperLink and SuperNodes; return what was measured."""
    bin_folder = python.parent
    with (
        tempfile.TemporaryDirectory() as home,
        processes(
            FLWR_HOME=home,
            FLWR_TELEMETRY_ENABLED="0",
            PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        ) as (folder, running),
    ):
        ports = [free_port() for _ in range(1 + job.nodes)]
        Path(home, "config.toml").write_text(
            '[superlink]\ndefault = "local"\n\n[superlink.local]\n'
            f'address = "127.0.0.1:{ports[0]}"\ninsecure = true\n'
        )
        link = running.start(
            "superlink",
            bin_folder / "flower-superlink",
            "--insecure",
            "--disable-runtime-dependency-installation",
            *("--host", "127.0.0.1", "--port", str(ports[0])),
        )
        _wait_for_port(running, ports[0])
        for number in range(1, job.nodes + 1):
            running.start(
                f"node-{number}",
                bin_folder / "flower-supernode",
                "--insecure",
                f"--superlink=127.0.0.1:{ports[0]}",
                *("--host", "127.0.0.1", "--port", str(ports[number])),
            )
        ends = folder / "ends.json"
        running.start(
            "run",
            bin_folder / "flwr",
            *("run", BENCHMARKS / "contenders/flower_payload", "local", "--run-config"),
            f"numbers={job.numbers} rounds={job.rounds + 1} nodes={job.nodes} ends='{ends}'",
        )
        running.wait_for(ends)
        peak_mb = peak_resident_mb(link.pid)
        ends_s = json.loads(ends.read_text())[1:]
    return _row("flower", job, ends_s, peak_mb)


def _wait_for_port(running: Processes, port: int) -> None:
    """Wait until somebody listens."""
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s:
        running.check()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)


def _row(contender: str, job: Job, ends_s: Sequence[float], peak_mb: float) -> dict[str, Any]:
    seconds = [after - before for before, after in pairwise(ends_s)]
    return {
        "contender": contender,
        "nodes": job.nodes,
        "model_mb": round(job.megabytes, 3),
        "seconds_per_round": round(median(seconds), 4),
        "coordinator_peak_rss_mb": round(peak_mb, 1),
    }


def free_port() -> int:
    """Return a port of this machine that nobody listens on, and the next one is free as well."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            with suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
                return port


def peak_resident_mb(pid: int) -> float:
    """Return the largest resident memory a process has had, in megabytes; 0 once it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:]) or "it said nothing"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows side by side, with each time in relation to Flower's."""
    flower = {r["model_mb"]: r["seconds_per_round"] for r in rows if r["contender"] == "flower"}
    lines = [
        f"{'contender':<18}{'model MB':>10}{'s/round':>10}{'x Flower':>10}{'coordinator MB':>16}"
    ]
    for row in rows:
        own = row["seconds_per_round"]
        ratio = f"{flower[row['model_mb']] / own:.1f}" if row["model_mb"] in flower else "-"
        lines.append(
            f"{row['contender']:<18}{row['model_mb']:>10g}{own:>10.3f}{ratio:>10}"
            f"{row['coordinator_peak_rss_mb']:>16.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds (default: 4)")
    parser.add_argument("--megabytes", nargs="+", type=float, default=[0.004, 100.0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--flower-python", type=Path, default=Path(sys.executable), help="one that has flwr 1.41"
    )
    parser.add_argument("--json", action="store_true", help="print one object per row")
    said = parser.parse_args()
    rows = []
    for megabytes in said.megabytes:
        numbers = max(1, round(megabytes * 1e6 / BYTES))
        job = Job(nodes=said.nodes, rounds=said.rounds, numbers=numbers)
        for _ in range(said.repeats):
            for contender in said.contenders:
                try:
                    row = (
                        run_flower(job, said.flower_python)
                        if contender == "flower"
                        else run_roundel(job, insecure=contender == "roundel-insecure")
                    )
                except Failed as failed:
                    sys.exit(f"{contender} failed: {failed}")
                rows.append(row)
                if said.json:
                    print(json.dumps(row), flush=True)
    if not said.json:
        print(_table(rows))


if __name__ == "__main__":
    main()
