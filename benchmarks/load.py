"""A coordinator under load: a thousand nodes, each with a connection of its own.

    python benchmarks/load.py
    python benchmarks/load.py --tls --rounds 10
    python benchmarks/load.py --nodes 200 --rounds 5 --json

`roundel serve` runs in a process of its own. Its nodes are light (`lightnodes.py`): a few processes
hold them all, and instead of training each sends the same update back, as soon as it has read the
broadcast. One more node, in a process of its own, sends heartbeats and does nothing else, and
measures how long they wait for their answers while rounds go on. What else is measured: how long it
takes until all have joined, seconds a round, how much of a processor the coordinator uses, and
whether its memory grows: what it has at the ends of five rounds after the first five, and at those
of the last five.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

from federation import Failed, Processes, free_port, processes
from lightnodes import PROBE, Crowd, answer_to, node_name, run_crowd, run_probe

from roundel.core.certificates import key_to_pem, new_key, signing_request
from roundel.core.wire.channel import Identity
from roundel.server.authority import Authority, Enrolment

BYTES = 4
SOME = 5
LIMIT_S = 1_800.0
TASK = "contenders.payload:task"
_GAVE_UP = "light nodes have given up, so no round can end; they say why above"


@dataclass(frozen=True, kw_only=True)
class Used:
    """What the coordinator has and has used at the end of a round.

    Attributes:
        memory_mb: Resident.
        cpu_s: Of all its threads, since it was started.
    """

    memory_mb: float
    cpu_s: float


class Crowds:
    """The processes of the light nodes, and the one that measures heartbeats."""

    def __init__(self) -> None:
        self._spawning = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []

    def start(self, run: Any, *said: object) -> Any:  # noqa: ANN401 - functions and pipes
        """Start a process; return the end of a pipe at which it says what it has measured."""
        told, tells = self._spawning.Pipe(duplex=False)
        process = self._spawning.Process(target=run, args=(*said, tells), daemon=True)
        process.start()
        tells.close()
        self._processes.append(process)
        return told

    def said(self, told: Any) -> Any:  # noqa: ANN401 - whatever was measured
        """Return what a process says at the end of a pipe.

        Raises:
            Failed: It has given up.
        """
        try:
            return told.recv()
        except EOFError as error:
            raise Failed(_GAVE_UP) from error

    def check(self) -> None:
        """Raise `Failed` if one of them has given up; it has said why."""
        if any(process.exitcode for process in self._processes):
            raise Failed(_GAVE_UP)


def enrolled(directory: Path, names: Sequence[str]) -> dict[str, Identity]:
    """Make an authority, and a certificate of it for each node."""
    now = datetime.now(UTC)
    authority = Authority(directory, now)
    token = authority.issue_token(port=1, life=timedelta(days=1), uses=len(names), now=now)

    def identity(name: str) -> Identity:
        key = new_key()
        asked = Enrolment(
            token_id=token.id,
            secret=token.secret,
            node=name,
            request=signing_request(key),
            peer="here",
        )
        certificate = authority.enrol(asked, now)
        return Identity(
            key=key_to_pem(key), certificate=certificate, authority=authority.certificate
        )

    identities = {name: identity(name) for name in names}
    authority.close()
    return identities


def measure(nodes: int, rounds: int, numbers: int, light: int, *, tls: bool) -> dict[str, Any]:
    """Run one coordinator with so many nodes; return what was measured.

    Args:
        nodes: How many.
        rounds: How many.
        numbers: Parameters of the model.
        light: Processes that hold the nodes.
        tls: Whether everybody proves who it is, and everything is encrypted.
    """
    settings = [
        f"task.name={TASK}",
        f"task.numbers={numbers}",
        f"rounds={rounds}",
        f"partition.clients={nodes}",
        f"cohort.size={nodes}",
        f"cohort.quorum={nodes}",
        "evaluation.clients=0",
    ]
    answer = answer_to(settings)
    crowds = Crowds()
    with processes() as (folder, running):
        address = f"127.0.0.1:{free_port()}"
        names = [*map(node_name, range(nodes)), PROBE] if tls else []
        identities = enrolled(folder / "authority", names) if tls else {}
        coordinator = running.start(
            "coordinator",
            *(sys.executable, "-m", "roundel.cli", "serve"),
            *(("--authority", folder / "authority") if tls else ("--insecure",)),
            *(f"-s{setting}" for setting in settings),
            *(f"--listen={address}", "--out", folder / "run"),
        )
        tallies = [
            crowds.start(
                run_crowd,
                Crowd(
                    address=address,
                    clients=range(first, nodes, light),
                    population=nodes,
                    answer=answer,
                    identities=identities,
                ),
            )
            for first in range(light)
        ]
        probe = crowds.start(run_probe, address, identities.get(PROBE))
        metrics = folder / "run" / "metrics.jsonl"
        used = _watch(running, crowds, coordinator.pid, metrics, rounds)
        seconds = [json.loads(line)["seconds"] for line in metrics.read_text().splitlines()]
        waits, met = crowds.said(probe), [crowds.said(tally) for tally in tallies]
    began_s = max(each.hosting_s for each in met)  # then the first round began
    waited_s = sorted(wait.waited_s for wait in waits if wait.at_s >= began_s)
    memory_mb = [each.memory_mb for each in used]
    return {
        "nodes": nodes,
        "tls": tls,
        "model_kb": round(numbers * BYTES / 1e3, 1),
        "join_s": round(max(each.join_s for each in met), 1),
        "rejoined": sum(each.rejoined for each in met),
        "rounds": len(seconds),
        "seconds_per_round": round(median(seconds), 3),
        "slowest_round_s": round(max(seconds), 3),
        "heartbeats": len(waited_s),
        "heartbeat_p50_ms": round(1e3 * waited_s[len(waited_s) // 2], 1),
        "heartbeat_p99_ms": round(1e3 * waited_s[int(len(waited_s) * 0.99)], 1),
        "heartbeat_longest_ms": round(1e3 * waited_s[-1], 1),
        "coordinator_cpu_s_per_round": round(
            (used[-1].cpu_s - used[0].cpu_s) / max(1, len(used) - 1), 3
        ),
        "coordinator_rss_mb_early": round(median(memory_mb[SOME : 2 * SOME] or memory_mb), 1),
        "coordinator_rss_mb_end": round(median(memory_mb[-SOME:]), 1),
        "coordinator_rss_mb_largest": round(max(memory_mb), 1),
    }


def _watch(running: Processes, crowds: Crowds, pid: int, metrics: Path, rounds: int) -> list[Used]:
    """Return what the coordinator has used at the end of each round."""
    used: list[Used] = []
    limit_s = time.monotonic() + LIMIT_S
    while len(used) < rounds:
        running.check()
        crowds.check()
        done = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
        if done > len(used):
            now = Used(memory_mb=_resident_mb(pid), cpu_s=_cpu_s(pid))
            used += [now] * (done - len(used))
        if time.monotonic() > limit_s:
            raise Failed(f"{done} rounds in {LIMIT_S:g} s: {running.last_words()}")
        time.sleep(0.05)
    return used


def _resident_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _cpu_s(pid: int) -> float:
    with suppress(OSError):
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--kilobytes", type=float, default=100.0, help="size of the model")
    parser.add_argument("--processes", type=int, default=2, help="that hold the nodes")
    parser.add_argument("--tls", action="store_true", help="with certificates and encryption")
    parser.add_argument("--json", action="store_true", help="print one object")
    said = parser.parse_args()
    numbers = max(1, round(said.kilobytes * 1e3 / BYTES))
    try:
        row = measure(said.nodes, said.rounds, numbers, said.processes, tls=said.tls)
    except Failed as failed:
        sys.exit(str(failed))
    print(json.dumps(row) if said.json else "\n".join(f"{k:<28}{v:>10}" for k, v in row.items()))


if __name__ == "__main__":
    main()
