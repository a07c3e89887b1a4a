"""How fast a Flower app runs on Roundel's workers, and on Flower's own simulation engine.

    python benchmarks/flower_apps.py --flower-python other-venv/bin/python
    python benchmarks/flower_apps.py --flower-python other-venv/bin/python --json > rows.jsonl

Both run the same app unmodified, with one process and one thread for each core: a perceptron of
4,810 parameters, 320 examples and 10 steps of plain SGD a client, stock ``FedAvg``, the whole
federation in every round, nothing evaluated. First, both train one round from the same start, and
what they learned is compared. Then they take turns in fresh processes: median seconds of a round
after the first, seconds from the start of the process to the end of the first round, and peak
resident memory of all processes together.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from contenders.jobs import Job, Workload, positive
from contenders.processes import ContenderFailed, Outcome, cores, end_with_contenders, run
from simulation import add_turns, difference, has_flower, tell, weights_of

HEADER = (
    f"{'contender':10} {'clients':>8} {'s/round':>9} {'x':>6} {'cold start s':>13} {'x':>6} "
    f"{'peak MB':>8}"
)
MODULES = {"roundel": "flower_here", "flower": "flower"}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How everything is measured.

    Attributes:
        rounds: Timed rounds of a run.
        repeats: Runs of each contender.
        flower_python: The interpreter that has Flower with Ray.
    """

    rounds: int
    repeats: int
    flower_python: str

    def run(self, contender: str, workload: Workload, rounds: int) -> Outcome:
        """Run the app in fresh processes.

        Raises:
            ContenderFailed: It ended without an answer.
        """
        job = Job(workload=workload, folder="", rounds=rounds, workers=cores())
        python = self.flower_python if contender == "flower" else sys.executable
        return run(MODULES[contender], job, python)


def workload_of(clients: int) -> Workload:
    """Return what so many clients train."""
    return Workload.whole(f"{clients} clients", (64, 64, 10), 320, 32, clients)


def measure(bench: Bench, workload: Workload, contenders: Sequence[str]) -> list[dict[str, Any]]:
    """Let the contenders take turns; return a row for each.

    Raises:
        ContenderFailed: One ended without an answer, or did other work.
    """
    weights = [weights_of(bench.run(each, workload, rounds=0)) for each in contenders]
    apart = difference(weights[0], weights[-1])
    tell(f"{workload.name}: same work, parameters differ by {apart:.1e} at most")
    outcomes: dict[str, list[Outcome]] = {each: [] for each in contenders}
    for _ in range(bench.repeats):
        for each in contenders:
            outcomes[each].append(bench.run(each, workload, bench.rounds))
            seconds = median(outcomes[each][-1].round_seconds)
            tell(f"{workload.name}: {each}: {seconds:.4f} s a round")
    return [row_of(each, workload, outcomes[each]) for each in contenders]


def row_of(contender: str, workload: Workload, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what was measured of one contender."""
    seconds = median(s for outcome in outcomes for s in outcome.round_seconds)
    return {
        "contender": contender,
        "clients": workload.cohort,
        "workers": cores(),
        "seconds_per_round": round(seconds, 5),
        "cold_start_s": round(median(outcome.cold_start_s for outcome in outcomes), 3),
        "peak_rss_mb": round(max(outcome.peak_rss_mb for outcome in outcomes), 1),
    }


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of one workload, each with how many times faster than Flower it was."""
    flower = next((row for row in rows if row["contender"] == "flower"), None)
    if flower is None:
        return [dict(row) for row in rows]
    return [
        {
            **row,
            "times_faster": round(flower["seconds_per_round"] / row["seconds_per_round"], 2),
            "times_faster_cold": round(flower["cold_start_s"] / row["cold_start_s"], 2),
        }
        for row in rows
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows for people."""
    lines = [HEADER]
    lines += [
        f"{row['contender']:10} {row['clients']:8,} {row['seconds_per_round']:9.4f} "
        f"{row.get('times_faster', 1.0):6.1f} {row['cold_start_s']:13.2f} "
        f"{row.get('times_faster_cold', 1.0):6.1f} {row['peak_rss_mb']:8.0f}"
        for row in rows
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--clients", nargs="+", type=positive, default=[100, 1_000], metavar="N")
    add_turns(made)
    return made


def main() -> None:
    """Measure and print; exit with 1 if a contender failed or is left out."""
    given = parser().parse_args()
    end_with_contenders()
    bench = Bench(rounds=given.rounds, repeats=given.repeats, flower_python=given.flower_python)
    contenders = list(MODULES)
    if not has_flower(bench.flower_python):
        tell(f"flower is left out: {bench.flower_python} has no flwr with ray; see --flower-python")
        contenders.remove("flower")
    rows: list[dict[str, Any]] = []
    try:
        for clients in given.clients:
            new = with_ratios(measure(bench, workload_of(clients), contenders))
            rows += new
            if given.json:
                print("\n".join(map(json.dumps, new)), flush=True)
    except ContenderFailed as failed:
        sys.exit(str(failed))
    if not given.json:
        print(table(rows))
    sys.exit(len(contenders) < len(MODULES))


if __name__ == "__main__":
    main()
