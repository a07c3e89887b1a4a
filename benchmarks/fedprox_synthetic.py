"""FedAvg and FedProx on Synthetic(alpha, beta), in the setting of the FedProx paper.

    python benchmarks/fedprox_synthetic.py [--rounds 200] [--seeds 5] [--jobs 1]

T. Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020), figure 2: 30 clients,
10 of them a round, 20 local epochs with batches of 10 and a learning rate of 0.01, mu 0 and 1, no
stragglers. Each seed draws other data and other cohorts; both mu see the same ones.

Printed are, on the clients' own test examples together, the loss and accuracy (mean over the last
tenth of the rounds), how much the loss jumps (mean change from one round to the next, without its
sign, over the second half), mean and standard deviation over seeds; and in how many seeds each
comparison holds.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from roundel.simulations import simulate

DATASETS: Mapping[str, Sequence[str]] = {
    "iid": ["task.iid=true"],
    "(0, 0)": ["task.alpha=0.0", "task.beta=0.0"],
    "(.5, .5)": ["task.alpha=0.5", "task.beta=0.5"],
    "(1, 1)": ["task.alpha=1.0", "task.beta=1.0"],
}
STRATEGIES: Mapping[int, Sequence[str]] = {
    0: ["strategy.name=fedavg"],
    1: ["strategy.name=fedprox", "strategy.mu=1.0"],
}
SETTING = [
    "task.name=synthetic",
    "partition.clients=30",
    "cohort.size=10",
    "client.lr=0.01",
    "client.batch_size=10",
    "client.epochs=20",
]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run came to.

    Attributes:
        loss: Mean test loss over the last tenth of the rounds.
        accuracy: Mean test accuracy over the last tenth of the rounds.
        jump: Mean change of the test loss from round to round over the second half.
    """

    loss: float
    accuracy: float
    jump: float


Runs = dict[tuple[str, int, int], Figures]
"""Dataset, mu and seed to what the run came to."""


def measure(dataset: str, mu: int, seed: int, rounds: int) -> Figures:
    """Run one experiment."""
    with tempfile.TemporaryDirectory() as place:
        run = simulate(
            settings=[
                *SETTING,
                *DATASETS[dataset],
                *STRATEGIES[mu],
                f"seed={seed}",
                f"rounds={rounds}",
            ],
            out=Path(place) / "run",
        )
    losses, accuracies = np.array(run.series("loss")), np.array(run.series("accuracy"))
    last = max(1, rounds // 10)
    return Figures(
        loss=float(losses[-last:].mean()),
        accuracy=float(accuracies[-last:].mean()),
        jump=float(np.abs(np.diff(losses[rounds // 2 - 1 :])).mean()),
    )


def measure_all(rounds: int, seeds: int, jobs: int) -> Runs:
    """Run everything, several runs at a time."""
    runs: Runs = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        todo = {
            pool.submit(measure, dataset, mu, seed, rounds): (dataset, mu, seed)
            for seed, dataset, mu in product(range(seeds), DATASETS, STRATEGIES)
        }
        for done in as_completed(todo):
            runs[todo[done]] = done.result()
            print("#", *todo[done], done.result(), flush=True)
    return runs


def table(runs: Runs, seeds: int) -> str:
    """Return a line for each dataset and mu."""
    lines = [f"{'data':9} mu  {'loss':>15}  {'accuracy':>15}  {'jump':>15}"]
    for dataset, mu in product(DATASETS, STRATEGIES):
        of_seeds = [runs[dataset, mu, seed] for seed in range(seeds)]
        cells = [
            f"{np.mean(values):.3f} +- {np.std(values, ddof=min(1, seeds - 1)):.3f}"
            for values in (
                [f.loss for f in of_seeds],
                [f.accuracy for f in of_seeds],
                [f.jump for f in of_seeds],
            )
        ]
        lines.append(f"{dataset:9} {mu:2}  " + "  ".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def comparisons(runs: Runs, seeds: int) -> str:
    """Return in how many seeds each comparison of the paper holds."""
    names = list(DATASETS)
    pairs = [*pairwise(names), (names[0], names[-1]), (names[1], names[-1])]
    lines = []
    for (better, worse), mu in product(pairs, STRATEGIES):
        both = [(runs[better, mu, seed], runs[worse, mu, seed]) for seed in range(seeds)]
        losses = sum(a.loss < b.loss for a, b in both)
        accuracies = sum(a.accuracy > b.accuracy for a, b in both)
        lines.append(
            f"mu {mu}: {better} better than {worse} by loss in {losses}, by accuracy in "
            f"{accuracies} of {seeds} seeds"
        )
    for dataset in names:
        both = [(runs[dataset, 1, seed], runs[dataset, 0, seed]) for seed in range(seeds)]
        lines.append(
            f"{dataset}: mu 1 lower than mu 0 by loss in {sum(a.loss < b.loss for a, b in both)}, "
            f"higher by accuracy in {sum(a.accuracy > b.accuracy for a, b in both)}, calmer in "
            f"{sum(a.jump < b.jump for a, b in both)} of {seeds} seeds"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="FedAvg and FedProx on Synthetic(alpha, beta)")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    given = parser.parse_args()
    runs = measure_all(given.rounds, given.seeds, given.jobs)
    print(table(runs, given.seeds))
    print(comparisons(runs, given.seeds))


if __name__ == "__main__":
    main()
