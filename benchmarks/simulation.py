"""How fast a round of federated averaging is simulated: Roundel, a bare PyTorch loop and Flower.

    python benchmarks/simulation.py
    python benchmarks/simulation.py --workloads w1-100 --contenders bare auto --repeats 1
    python benchmarks/simulation.py --flower-python other-venv/bin/python --json > rows.jsonl

Every client of the cohort takes one local epoch with plain SGD, on made-up examples:

    w1-100    perceptron 64-64-10        320 examples, batch 32, 10 steps      100 clients
    w1-1000   the same                                                       1,000 clients
    w2        perceptron 784-200-200-10  600 examples, batch 10, 60 steps       20 clients
    w3        CNN, 1,663,370 parameters  600 examples, batch 10, 60 steps        4 clients

and the contenders are

    bare         a hand-written loop: no messages, records or files; batches cut beforehand
    loop         Roundel with engine.executor = loop, writing its run directory
    vectorized   the same with engine.executor = vectorized
    auto         the same with engine.executor = auto
    flower       Flower's engine on Ray: one CPU a client, as many workers as cores

each with one thread a process, all but Flower with one process and with one for each core. First,
untimed, every contender runs one round, and its parameters are compared with the bare loop's.
Then they take turns, each time in fresh processes, so that a busy machine slows all of them alike.

The table says, for each contender: median seconds a round (the first round is left out), the same
in microseconds for each local step of each client, the largest resident memory of all its processes
together, median seconds from the start of the process to the end of the first round, and its time
divided by that of the bare loop with a process for each core, and by Flower's: below 1 is faster.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from contenders.jobs import Job, Workload, positive
from contenders.processes import ContenderFailed, Outcome, cores, end_with_contenders, run
from numpy.typing import NDArray

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload.whole("w1-100", (64, 64, 10), examples=320, batch=32, cohort=100),
        Workload.whole("w1-1000", (64, 64, 10), examples=320, batch=32, cohort=1_000),
        Workload.whole("w2", (784, 200, 200, 10), examples=600, batch=10, cohort=20),
        Workload.whole("w3", (), examples=600, batch=10, cohort=4),
    )
}
EXECUTORS = ("loop", "vectorized", "auto")
KINDS = ("bare", "flower", *EXECUTORS)
SAME = 0.01
"""Two results are of the same work if they differ by less than this share of what was learned."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Who runs a workload, and how.

    Attributes:
        kind: One of `KINDS`.
        workers: Processes that train.
    """

    kind: str
    workers: int

    @property
    def module(self) -> str:
        """The script it is."""
        return "engine" if self.kind in EXECUTORS else self.kind

    @property
    def reference(self) -> str:
        """The bare loop that takes examples in the same order."""
        return "shuffled" if self.kind in EXECUTORS else "bare"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"roundel, {self.kind}" if self.kind in EXECUTORS else self.kind


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How everything is measured.

    Attributes:
        device: Where models are.
        rounds: Timed rounds of a run.
        repeats: Runs of each contender.
        flower_python: The interpreter that has Flower.
    """

    device: str
    rounds: int
    repeats: int
    flower_python: str

    def run(self, contender: Contender, workload: Workload, rounds: int) -> Outcome:
        """Run a contender in fresh processes.

        Raises:
            ContenderFailed: It ended without an answer.
        """
        job = Job(
            workload=workload,
            folder="",
            rounds=rounds,
            workers=contender.workers,
            executor=contender.kind if contender.kind in EXECUTORS else "",
            device=self.device,
        )
        python = self.flower_python if contender.kind == "flower" else sys.executable
        return run(contender.module, job, python)

    def reference(self, module: str, workload: Workload) -> NDArray[np.float32]:
        """Return the parameters before and after one round of a bare loop, shape ``(2, D)``.

        Args:
            module: ``bare``, or ``shuffled`` for Roundel's order of examples.
            workload: What to train.

        Raises:
            ContenderFailed: It ended without an answer.
        """
        job = Job(workload=workload, folder="", rounds=0, device=self.device)
        return weights_of(run(module, job))


def weights_of(outcome: Outcome) -> NDArray[np.float32]:
    """Return the parameters that a run of one round has kept.

    Raises:
        ContenderFailed: It has not.
    """
    if outcome.weights is None:
        raise ContenderFailed("it left no weights to compare")
    return outcome.weights


Outcomes = dict[Contender, list[Outcome]]
"""Each contender's runs."""


def check_work(
    bench: Bench, workload: Workload, contenders: Sequence[Contender]
) -> tuple[list[Contender], list[str]]:
    """Let every contender run one round, and compare what it learned with the bare loop's.

    Returns:
        Those that did the same work, and what there is to say: first about all of them, then about
        each of the others.

    Raises:
        ContenderFailed: The bare loop ended without an answer.
    """
    brief = workload.brief
    references = {
        module: bench.reference(module, brief)
        for module in sorted({contender.reference for contender in contenders})
    }
    differences: dict[Contender, float] = {}
    others = []
    for contender in contenders:
        tell(f"{workload.name}, same work? {contender.name}, workers: {contender.workers}")
        try:
            found = weights_of(bench.run(contender, brief, rounds=0))
            differences[contender] = difference(references[contender.reference], found)
        except ContenderFailed as failed:
            others.append(f"left out: {contender.name}, workers: {contender.workers}: {failed}")
    said = (
        f"same work: max difference {max(differences.values(), default=0.0):.1e} between the "
        f"parameters of the bare loop and of {len(differences)} contenders after one round, in "
        f"which they moved by up to {max(map(moved, references.values())):.1e}"
    )
    return list(differences), [said, *others]


def difference(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the largest difference between a contender's parameters and the bare loop's.

    Args:
        reference: The bare loop's before and after the first round, shape ``(2, D)``.
        found: The contender's.

    Raises:
        ContenderFailed: It is too large for the same work.
    """
    largest = float(np.abs(reference - found).max())
    if not largest <= SAME * moved(reference):  # NaN is not
        raise ContenderFailed(
            f"other work: parameters differ by {largest:.1e}, and training moved them by up to "
            f"{moved(reference):.1e}"
        )
    return largest


def moved(weights: NDArray[np.float32]) -> float:
    """Return how far training moved a parameter at most.

    Args:
        weights: Before and after, shape ``(2, D)``.
    """
    return float(np.abs(weights[1] - weights[0]).max())


def measure(bench: Bench, workload: Workload, contenders: Sequence[Contender]) -> Outcomes:
    """Let the contenders take turns.

    Raises:
        ContenderFailed: One failed that had passed the check.
    """
    outcomes: Outcomes = {contender: [] for contender in contenders}
    for repeat in range(1, bench.repeats + 1):
        for contender in contenders:
            outcome = bench.run(contender, workload, bench.rounds)
            outcomes[contender].append(outcome)
            tell(
                f"{workload.name}, turn {repeat} of {bench.repeats}: {contender.name}, workers: "
                f"{contender.workers}: {median(outcome.round_seconds):.4f} s a round"
            )
    return outcomes


def row_of(workload: Workload, contender: Contender, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what was measured of one contender."""
    seconds = median(s for outcome in outcomes for s in outcome.round_seconds)
    ours = contender.kind in EXECUTORS
    return {
        "contender": "roundel" if ours else contender.kind,
        "workload": workload.name,
        "cohort": workload.cohort,
        "workers": contender.workers,
        "executor": contender.kind if ours else None,
        "seconds_per_round": round(seconds, 6),
        "us_per_client_step": round(seconds / (workload.cohort * workload.steps) * 1e6, 3),
        "peak_rss_mb": round(max(outcome.peak_rss_mb for outcome in outcomes), 1),
        "cold_start_s": round(median(outcome.cold_start_s for outcome in outcomes), 3),
    }


HEADER = (
    f"{'contender':20} {'workers':>7} {'s/round':>9} {'us/step':>9} {'peak MB':>8} "
    f"{'cold start s':>12} {'/ bare':>7} {'/ Flower':>8}"
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of one workload, each beside the yardsticks."""
    bare = [row for row in rows if row["contender"] == "bare" and row["workers"] == cores()]
    flower = [row for row in rows if row["contender"] == "flower"]
    lines = [HEADER]
    for row in rows:
        name = row["contender"] + (f", {row['executor']}" if row["executor"] else "")
        lines.append(
            f"{name:20} {row['workers']:7} {row['seconds_per_round']:9.4f} "
            f"{row['us_per_client_step']:9.1f} {row['peak_rss_mb']:8.0f} "
            f"{row['cold_start_s']:12.2f} {ratio(row, bare):>7} {ratio(row, flower):>8}"
        )
    return "\n".join(lines)


def ratio(row: Mapping[str, Any], yardstick: Sequence[Mapping[str, Any]]) -> str:
    """Return a row's time over a yardstick's, or a dash where that was not measured."""
    if not yardstick:
        return "-"
    return f"{row['seconds_per_round'] / yardstick[0]['seconds_per_round']:.2f}"


def has_flower(python: str) -> bool:
    """Tell whether an interpreter has Flower with Ray, and torch."""
    look = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    command = [python, "-c", look, "flwr", "ray", "torch"]
    try:
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - the user's own
    except OSError:
        return False


def chosen(given: argparse.Namespace) -> list[Contender]:
    """Return the contenders in the order in which they take turns."""
    kinds = list(given.contenders)
    if "flower" in kinds and not has_flower(given.flower_python):
        tell(
            f"flower is left out: {given.flower_python} has no flwr with ray; pip install torch "
            "'flwr[simulation]==1.41.*' into an environment, and name its interpreter with "
            "--flower-python"
        )
        kinds.remove("flower")
    found = []
    for kind in kinds:
        counts = [cores()] if kind == "flower" else given.workers
        found += [Contender(kind=kind, workers=workers) for workers in counts]
    return found


def tell(line: str) -> None:
    """Say how far it is, apart from the results."""
    print(f"# {line}", file=sys.stderr, flush=True)


def show(
    bench: Bench, workload: Workload, contenders: Sequence[Contender], *, as_json: bool
) -> bool:
    """Measure one workload and print its rows; tell whether every contender took part."""
    fit, said = check_work(bench, workload, contenders)
    rows = [row_of(workload, *measured) for measured in measure(bench, workload, fit).items()]
    if as_json:
        print("\n".join(said), file=sys.stderr, flush=True)
        for row in rows:
            print(json.dumps(row), flush=True)
    else:
        title = f"{workload.name}: {workload.cohort:,} clients of {workload.steps} steps"
        print("\n".join([title, *said, table(rows), ""]), flush=True)
    return len(fit) == len(contenders)


def parser() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    made.add_argument("--contenders", nargs="+", choices=KINDS, default=list(KINDS))
    made.add_argument(
        "--workers",
        nargs="+",
        type=positive,
        default=sorted({1, cores()}),
        metavar="N",
        help="processes of each contender but Flower; by default 1 and one for each core",
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    add_turns(made)
    return made


def add_turns(made: argparse.ArgumentParser) -> None:
    """Add how often contenders take their turn, where Flower is, and how results are printed."""
    made.add_argument(
        "--rounds", type=positive, default=5, help="timed rounds of a run (default: 5)"
    )
    made.add_argument("--repeats", type=positive, default=3, help="runs of each (default: 3)")
    made.add_argument(
        "--flower-python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter of an environment with flwr[simulation] 1.41; by default this one",
    )
    made.add_argument("--json", action="store_true", help="print one object a row, no table")


def main() -> None:
    """Measure and print; exit with 1 if a contender failed."""
    given = parser().parse_args()
    end_with_contenders()
    bench = Bench(
        device=given.device,
        rounds=given.rounds,
        repeats=given.repeats,
        flower_python=given.flower_python,
    )
    contenders = chosen(given)
    try:
        complete = [
            show(bench, WORKLOADS[name], contenders, as_json=given.json) for name in given.workloads
        ]
    except ContenderFailed as failed:
        sys.exit(str(failed))
    sys.exit(not all(complete))


if __name__ == "__main__":
    main()
