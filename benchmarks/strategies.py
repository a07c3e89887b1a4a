"""All strategies with their documented defaults on the same data, and robust rules under attack.

    python benchmarks/strategies.py [--rounds 50] [--seeds 3] [--jobs 1] [--only NAME ...] [--json]
    python benchmarks/strategies.py --attacks [...]

The digits, divided over 30 clients by a Dirichlet distribution with alpha = 0.1, 10 clients a
round, Roundel's defaults for local training; a fifth of each client's examples is its own test set.
For one seed all strategies get the same partition, initial model, cohorts and order of batches.

Without ``--attacks``: the accuracy on the global test set (mean over the last tenth of the rounds),
in which round its mean over three rounds reaches 0.85 (the median over the seeds; ``-`` where one
seed never does), the accuracy over the clients' own test examples and its mean over the worst tenth
of the clients, and megabytes up and down. Mean and standard deviation over the seeds.

With ``--attacks``: the accuracy of the robust rules without an attack, with 20 % of the population
flipping the signs of their updates, and with 20 % sending what "A Little Is Enough" (ALIE) says.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from roundel.core.errors import RoundelError
from roundel.simulations import simulate
from roundel.strategies.registry import FAMILIES, STRATEGIES

SETTING = (
    "partition.alpha=0.1",
    "partition.clients=30",
    "partition.test=0.2",
    "evaluation.clients=30",
    "evaluation.min_examples=1",
)
SPECIAL: Mapping[str, Sequence[str]] = {"fedbn": ["task.model=mlp-norm"]}
"""What a strategy needs besides: FedBN a model with BatchNorm."""

ATTACKS: Mapping[str, Sequence[str]] = {
    "none": [],
    "sign flip": ["attack.kind=sign_flip", "attack.share=0.2"],
    "ALIE": ["attack.kind=alie", "attack.share=0.2"],
}
TARGET = 0.85
ROBUST = "robust aggregation"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run came to.

    Attributes:
        accuracy: On the global test set, mean over the last tenth of the rounds.
        reached: The round in which the mean over three rounds reached the target, if it did.
        own: Accuracy over the clients' own test examples.
        worst: The same over the worst tenth of the clients.
        up_mb: What all clients sent, in megabytes.
        down_mb: What all clients were sent.
        loss: On the global test set in the last round.
    """

    accuracy: float
    reached: int | None
    own: float
    worst: float
    up_mb: float
    down_mb: float
    loss: float


def measure(name: str, attack: str, seed: int, rounds: int) -> Figures | str:
    """Run one experiment; return its figures, or why it failed."""
    settings = [
        *SETTING,
        *SPECIAL.get(name, ()),
        *ATTACKS[attack],
        f"strategy.name={name}",
        f"seed={seed}",
        f"rounds={rounds}",
    ]
    try:
        with tempfile.TemporaryDirectory() as place:
            run = simulate(settings=settings, out=Path(place) / "run")
    except RoundelError as error:
        return str(error)
    curve = np.array(run.series("accuracy"), dtype=np.float64)
    last = run.rounds[-1]
    trailing = np.convolve(curve, np.ones(3) / 3, mode="valid")
    there = np.flatnonzero(trailing >= TARGET)
    own = last["clients"]["accuracy"]
    return Figures(
        accuracy=float(curve[-max(1, rounds // 10) :].mean()),
        reached=int(there[0]) + 3 if len(there) else None,
        own=own["mean"],
        worst=own["worst_tenth"],
        up_mb=sum(run.series("bytes_up")) / 1e6,
        down_mb=sum(run.series("bytes_down")) / 1e6,
        loss=last["loss"] if last["loss"] is not None else math.nan,
    )


Runs = dict[tuple[str, str, int], Figures | str]
"""Strategy, attack and seed to what the run came to."""


def measure_all(names: Sequence[str], attacks: Sequence[str], given: argparse.Namespace) -> Runs:
    """Run everything, several runs at a time."""
    runs: Runs = {}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        todo = {
            pool.submit(measure, name, attack, seed, given.rounds): (name, attack, seed)
            for name, attack, seed in product(names, attacks, range(given.seeds))
        }
        for done in as_completed(todo):
            name, attack, seed = todo[done]
            runs[todo[done]] = figures = done.result()
            if given.json:
                said = {"error": figures} if isinstance(figures, str) else asdict(figures)
                line = {"strategy": name, "attack": attack, "seed": seed, **said}
                print(json.dumps(line), flush=True)
    return runs


def cell(values: Sequence[float], places: int = 3) -> str:
    """Return mean and standard deviation."""
    spread = np.std(values, ddof=min(1, len(values) - 1))
    return f"{np.mean(values):.{places}f} ± {spread:.{places}f}"


def clean_table(runs: Runs, names: Sequence[str], seeds: int) -> str:
    """Return a line for each strategy, as Markdown."""
    lines = [
        f"| strategy | accuracy | to {TARGET} | own accuracy | worst tenth | MB up | MB down |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        found = [runs[name, "none", seed] for seed in range(seeds)]
        failed = [figures for figures in found if isinstance(figures, str)]
        done = [figures for figures in found if isinstance(figures, Figures)]
        if failed:
            lines.append(f"| `{name}` | {failed[0]} | | | | | |")
            continue
        reached = [f.reached for f in done if f.reached is not None]
        columns = [
            cell([f.accuracy for f in done]),
            f"{median(reached):g}" if len(reached) == seeds else "-",
            cell([f.own for f in done]),
            cell([f.worst for f in done]),
            f"{np.mean([f.up_mb for f in done]):.2f}",
            f"{np.mean([f.down_mb for f in done]):.2f}",
        ]
        lines.append(f"| `{name}` | {' | '.join(columns)} |")
    return "\n".join(lines)


def attack_table(runs: Runs, names: Sequence[str], seeds: int) -> str:
    """Return a line for each rule and a column for each attack, as Markdown."""
    lines = [f"| rule | {' | '.join(ATTACKS)} |", "|---" * (1 + len(ATTACKS)) + "|"]
    for name in names:
        columns = []
        for attack in ATTACKS:
            found = [runs[name, attack, seed] for seed in range(seeds)]
            failed = [figures for figures in found if isinstance(figures, str)]
            done = [f.accuracy for f in found if isinstance(f, Figures)]
            columns.append(failed[0] if failed else cell(done))
        lines.append(f"| `{name}` | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="all strategies on the same data")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), help="these strategies")
    parser.add_argument("--attacks", action="store_true", help="the robust rules under attack")
    parser.add_argument("--json", action="store_true", help="print one object a run, no table")
    given = parser.parse_args()
    robust = ["fedavg", *(make.__name__ for make in FAMILIES.get(ROBUST, ()))]
    names = given.only or (robust if given.attacks else list(STRATEGIES))
    attacks = list(ATTACKS) if given.attacks else ["none"]
    runs = measure_all(names, attacks, given)
    if not given.json:
        layout = attack_table if given.attacks else clean_table
        print(layout(runs, names, given.seeds))


if __name__ == "__main__":
    main()
