"""Federations under a seeded plan of faults, which must end as one that nothing happened to.

    .venv/bin/python -m tests.faults --runs 50

Coordinator and nodes are processes. The plan kills them with signal 9 at random moments and starts
them again, cuts their connections after so many bytes, holds bytes back, and lets nodes send
answers twice. All clients of a cohort must answer, so the parameters after each round must be those
of the simulated experiment; each client must have counted once in each round it was selected for.
"""

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from roundel.core.configfile import load_experiment
from roundel.core.history import History, read_history
from roundel.core.runfiles import METRICS, is_run
from roundel.simulations import simulate
from tests.commands import Command, start
from tests.proxy import CuttingProxy, cutting

STRATEGIES = ("fedavg", "scaffold", "fedadam", "median", "fedprox")
NODES = 3
ROUNDS = 6
LIMIT_S = 240.0
UPDATE = 19_240
"""About how many bytes an update has, and a broadcast."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens to one run.

    Attributes:
        strategy: What is run.
        budgets: After how many bytes connections are cut, in their order.
        kills: Who is killed how many seconds after the one before: a node's number, or 0 for the
            coordinator.
        seed: For what is left to chance while it runs.
    """

    strategy: str
    budgets: Sequence[int]
    kills: Sequence[tuple[float, int]]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Survived:
    """What a run went through.

    Attributes:
        coordinator_kills: How often the coordinator was killed.
        node_kills: How often a node was.
        cuts: How many connections were cut.
        seconds: How long it took.
    """

    coordinator_kills: int
    node_kills: int
    cuts: int
    seconds: float


def plan_of(seed: int) -> Plan:
    """Draw a plan."""
    dice = random.Random(seed)
    kills = [
        (dice.uniform(0.2, 1.5), dice.choice([0, 0, *range(1, NODES + 1)]))
        for _ in range(dice.randint(2, 5))
    ]
    return Plan(
        strategy=STRATEGIES[seed % len(STRATEGIES)],
        budgets=[dice.randrange(4_000, 4 * UPDATE) for _ in range(dice.randint(4, 12))],
        kills=kills,
        seed=seed,
    )


def settings_of(strategy: str) -> list[str]:
    """Return the experiment: every client that is selected must answer."""
    return [
        f"strategy.name={strategy}",
        f"rounds={ROUNDS}",
        "partition.clients=9",
        "cohort.size=6",
        "cohort.quorum=6",
        "client.epochs=1",
        "evaluation.clients=0",
        "engine.executor=loop",
    ]


def undisturbed(strategy: str, place: Path) -> History:
    """Simulate the experiment."""
    return simulate(load_experiment(None, settings_of(strategy)), out=place)


class Federation:
    """The processes of one run."""

    def __init__(self, plan: Plan, place: Path, proxy: CuttingProxy, port: int) -> None:
        self._plan = plan
        self._place = place
        self._proxy = proxy
        self._port = port
        self._running: dict[int, Command] = {}
        self.run = place / "run"
        self.kills: Counter[bool] = Counter()

    def start(self, who: int) -> None:
        """Start the coordinator (0) or a node, as somebody would who finds it dead."""
        self._running[who] = self._node(who) if who else self._coordinator()

    def kill(self, who: int) -> None:
        """Kill a process and start it again; one that has done its work is left alone."""
        if self._running[who].poll() is None:
            self._running[who].send(signal.SIGKILL)
            self._running[who].wait()
            self.kills[who == 0] += 1
            self.start(who)

    @property
    def over(self) -> bool:
        """Whether the coordinator has ended.

        Raises:
            AssertionError: It has failed, or a node has before it.
        """
        for who, process in self._running.items():
            code = process.poll()
            assert code in (None, 0), f"{_name(who)} ended with {code}: {process.out}{process.err}"
        return self._running[0].poll() == 0

    def end(self) -> None:
        """End what still runs."""
        for process in self._running.values():
            if process.poll() is None:
                process.send(signal.SIGKILL)
                process.wait()

    def words(self) -> str:
        """Return what all of them said."""
        return "\n".join(
            f"--- {_name(who)}\n{process.out}{process.err}"
            for who, process in self._running.items()
        )

    def _coordinator(self) -> Command:
        listen = ("--listen", f"127.0.0.1:{self._port}", "--insecure")
        if is_run(self.run):
            return start("serve", "--resume", self.run, *listen, cwd=self._place)
        if self.run.exists():  # killed before it was a run
            _remove_empty(self.run)
        settings = [f"-s{setting}" for setting in settings_of(self._plan.strategy)]
        return start("serve", *settings, "--out", self.run, *listen, cwd=self._place)

    def _node(self, number: int) -> Command:
        return start(
            *("join", self._proxy.address, "--insecure", "--wait", "60"),
            *("--partition", f"{number}/{NODES}", "--name", f"node-{number}"),
            *("--state", self._place / f"node-{number}"),
            cwd=self._place,
            env={"REPEATING_SEED": str(self._plan.seed)},
            prelude="repeating",
        )


def run_under(plan: Plan, place: Path, undisturbed: History) -> Survived:
    """Run a federation under a plan, and check how it ends.

    Args:
        plan: What happens.
        place: An empty directory.
        undisturbed: The same experiment, simulated.

    Raises:
        AssertionError: It ended otherwise, or did not end.
    """
    began_s = time.monotonic()
    dice = random.Random(plan.seed)
    with _federation(plan, place, lambda: 0.02 * (dice.random() < 0.05)) as (federation, proxy):
        for pause_s, who in plan.kills:
            _sleep_while(lambda: not federation.over, pause_s)
            if federation.over:
                break
            federation.kill(who)
        _sleep_while(lambda: not federation.over, LIMIT_S)
        assert federation.over, f"it did not end in {LIMIT_S:g} s\n{federation.words()}"
        check(read_history(federation.run), undisturbed)
        return Survived(
            coordinator_kills=federation.kills[True],
            node_kills=federation.kills[False],
            cuts=proxy.cuts,
            seconds=time.monotonic() - began_s,
        )


def check(ran: History, undisturbed: History) -> None:
    """Check that two runs made the same parameters, of each selected client's one update."""
    assert ran.hashes == undisturbed.hashes
    assert ran.series("completed") == undisturbed.series("completed")
    assert _counted(ran) == _counted(undisturbed)


def _counted(history: History) -> Mapping[tuple[int, int, str], int]:
    """Return how often each client's update counted in each round, by its hash."""
    return Counter(
        (row["round"], row["client"], row["update_blake3"])
        for row in history.clients()
        if row["status"] == "accepted"
    )


@contextmanager
def _federation(
    plan: Plan, place: Path, wait_s: Callable[[], float]
) -> Iterator[tuple[Federation, CuttingProxy]]:
    port = _free_port()
    with ExitStack() as stack:
        proxy = stack.enter_context(cutting(f"127.0.0.1:{port}", plan.budgets, wait_s))
        federation = Federation(plan, place, proxy, port)
        stack.callback(federation.end)
        for who in range(NODES + 1):
            federation.start(who)
        yield federation, proxy


def _sleep_while(holds: Callable[[], bool], seconds: float) -> None:
    limit_s = time.monotonic() + seconds
    while holds() and time.monotonic() < limit_s:
        time.sleep(0.02)


def _remove_empty(path: Path) -> None:
    for folder in sorted(path.rglob("*"), reverse=True):
        folder.unlink() if folder.is_file() else folder.rmdir()
    path.rmdir()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _name(who: int) -> str:
    return f"node {who}" if who else "the coordinator"


def main() -> None:
    """Run as many plans as the command line asks for; print figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first plan")
    said = parser.parse_args()
    survived: list[Survived] = []
    with tempfile.TemporaryDirectory() as place:
        simulated = {name: undisturbed(name, Path(place, name)) for name in STRATEGIES}
        for seed in range(said.seed, said.seed + said.runs):
            plan = plan_of(seed)
            folder = Path(place, f"run-{seed}")
            folder.mkdir()
            try:
                outcome = run_under(plan, folder, simulated[plan.strategy])
            except AssertionError as error:
                metrics = folder / "run" / METRICS
                rounds = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
                sys.exit(f"plan {seed} ({plan}), after {rounds} rounds: {error}")
            survived.append(outcome)
            print(f"plan {seed}: {plan.strategy}, {outcome}", flush=True)
    print(
        f"{len(survived)} runs ended with the parameters of the undisturbed ones: "
        f"{sum(s.coordinator_kills for s in survived)} coordinators and "
        f"{sum(s.node_kills for s in survived)} nodes killed, "
        f"{sum(s.cuts for s in survived)} connections cut, "
        f"{sum(s.seconds for s in survived):.0f} s"
    )
    os._exit(0)


if __name__ == "__main__":
    main()
