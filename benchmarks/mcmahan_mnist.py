"""Rows of published MNIST tables, run again.

    python benchmarks/mcmahan_mnist.py --data DIR

- ``2nn``, ``cnn``: McMahan et al. 2017, table 1 and 2: rounds until the global test accuracy first
  reaches 97 % (2NN, E=1) or 99 % (CNN, E=5), with 100 clients of 600 IID examples, C=0.1, B=10.
- ``niid-iid``, ``niid-dirichlet``: NIID-Bench (as Flower's baseline reports it): accuracy after 50
  rounds of all 10 clients, E=10, batch 64, momentum 0.9, small LeNet.

DIR holds the four original IDX files, plain or gzipped.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roundel.core.records import RoundReport
from roundel.reports.summary import round_line
from roundel.simulations import simulate


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        table: Where it stands.
        settings: What it runs.
        rounds: How many rounds at most.
        target: Accuracy to reach; None to run all rounds and report the last accuracy.
        published: What the table says: rounds, or accuracy in percent.
    """

    table: str
    settings: Sequence[str]
    rounds: int
    target: float | None
    published: float


MCMAHAN = ("partition.kind=iid", "partition.clients=100", "cohort.size=10", "client.batch_size=10")
NIID = (
    "task.model=lenet",
    "partition.clients=10",
    "cohort.size=10",
    "client.epochs=10",
    "client.batch_size=64",
    "client.lr=0.01",
    "client.momentum=0.9",
)
ROWS = {
    "2nn": Row(
        table="McMahan et al. 2017, table 1: 2NN, E=1, B=10, C=0.1, IID",
        settings=(*MCMAHAN, "task.model=2nn", "client.epochs=1", "client.lr=0.1"),
        rounds=140,
        target=0.97,
        published=87,
    ),
    "cnn": Row(
        table="McMahan et al. 2017, table 2: CNN, E=5, B=10, C=0.1, IID",
        settings=(*MCMAHAN, "task.model=cnn", "client.epochs=5", "client.lr=0.1"),
        rounds=32,
        target=0.99,
        published=20,
    ),
    "niid-iid": Row(
        table="NIID-Bench, MNIST, FedAvg, IID",
        settings=(*NIID, "partition.kind=iid"),
        rounds=50,
        target=None,
        published=99.09,
    ),
    "niid-dirichlet": Row(
        table="NIID-Bench, MNIST, FedAvg, Dirichlet(0.5)",
        settings=(*NIID, "partition.kind=dirichlet", "partition.alpha=0.5"),
        rounds=50,
        target=None,
        published=98.89,
    ),
}


def main() -> None:
    """Run the rows that are asked for and print each next to what is published."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the IDX files")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", "-s", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for name in arguments.rows:
        print(measure(ROWS[name], arguments.data, arguments.seed, arguments.set), flush=True)


def measure(row: Row, data: Path, seed: int, more: Sequence[str]) -> str:
    """Run one row and say how it compares."""

    def tell(report: RoundReport) -> None:
        print(round_line(report.record, row.rounds), file=sys.stderr, flush=True)

    settings = [
        "task.name=mnist",
        f"task.path={data}",
        f"rounds={row.rounds}",
        f"seed={seed}",
        "partition.test=0",
        "evaluation.clients=0",
        *row.settings,
        *([] if row.target is None else [f"stop.target={row.target}"]),
        *more,
    ]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        run = simulate(settings=settings, out=Path(out) / "run", on_round=tell)
    seconds = time.perf_counter() - began
    accuracies = run.series("accuracy")
    if row.target is None:
        said = f"{accuracies[-1]:.2%} after {len(accuracies)} rounds (published {row.published} %)"
    else:
        reached = next((i for i, a in enumerate(accuracies, 1) if a >= row.target), None)
        best = max(accuracies)
        said = (
            f"{row.target:.0%} after {reached} rounds (published {row.published:g})"
            if reached
            else f"not {row.target:.0%} in {len(accuracies)} rounds, at best {best:.2%}"
        )
    return f"{row.table}: {said}, {seconds:.0f} s"


if __name__ == "__main__":
    main()
