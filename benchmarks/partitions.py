"""How long it takes to divide a pool, to describe the division and to write it down.

    python benchmarks/partitions.py [CLIENTS] [CLASSES]

By default 100,000 clients share 1,000,000 examples of 10 classes. Seconds, for each kind.
"""

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.simulations.partitions import describe, write_report
from roundel.simulations.population import PartitionedPopulation

EXAMPLES = 1_000_000
KINDS = (
    *("iid", "dirichlet", "class-prior", "shards"),
    *("classes", "lognormal", "power-law", "natural"),
)


def measure(kind: str, pool: Examples, clients: int) -> list[float]:
    """Return the seconds of each step: divide, describe, write, then make 1,000 clients."""
    config = PartitionConfig.model_validate({"kind": kind, "clients": clients})
    marks = [time.perf_counter()]
    population = PartitionedPopulation.of(config, pool, seed=0)
    marks.append(time.perf_counter())
    report = describe(population, seed=0)
    marks.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as place:
        write_report(report, Path(place))
    marks.append(time.perf_counter())
    for client in range(0, clients, max(1, clients // 1000)):
        population.client(client)
    marks.append(time.perf_counter())
    return [end - begin for begin, end in pairwise(marks)]


def main() -> None:
    """Measure and print."""
    given = [int(word) for word in sys.argv[1:]]
    clients, classes = (*given, *(100_000, 10)[len(given) :])
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (EXAMPLES,), generator=generator)
    pool = Examples(torch.zeros(EXAMPLES, 1), labels, torch.arange(EXAMPLES) % clients)
    print(f"{'kind':12} {'divide':>8} {'describe':>8} {'write':>8} {'1,000 clients':>14}")
    for kind in KINDS:
        divide, look, write, make = measure(kind, pool, clients)
        print(f"{kind:12} {divide:8.2f} {look:8.2f} {write:8.2f} {make:14.3f}")


if __name__ == "__main__":
    main()
