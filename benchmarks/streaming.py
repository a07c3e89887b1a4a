"""How much memory aggregation takes beyond its inputs, for every strategy that sums.

    python benchmarks/streaming.py [--updates 10000] [--size 1000000] [--only NAME ...] [--json]

Each strategy aggregates so many updates of so many parameters in a process of its own; all updates
share their tensors, so what the process grows by is what aggregation keeps. Printed are megabytes
at the peak above what the process took before the first update, and seconds.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from roundel.core.messages import ClientUpdate, Ticket
from roundel.core.params import ParamSpec
from roundel.server.aggregation import Accumulators, initial_state, step
from roundel.strategies.compose import compose
from roundel.strategies.registry import STRATEGIES
from roundel.strategies.sites import RoundContext


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one strategy takes.

    Attributes:
        strategy: Its name.
        updates: How many it aggregated.
        size: Of how many parameters.
        extra_mb: Memory at the peak beyond the inputs, in megabytes.
        seconds: How long it took.
    """

    strategy: str
    updates: int
    size: int
    extra_mb: float
    seconds: float


class Vector(nn.Module):
    """A model that is one vector."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))


def measure(name: str, updates: int, size: int) -> Row:
    """Aggregate, in this process."""
    torch.set_num_threads(1)
    strategy = compose(STRATEGIES[name]())
    spec = ParamSpec.of(Vector(size))
    state = initial_state(strategy, spec, torch.zeros(size), torch.empty(0, dtype=torch.int64))
    kinds = strategy.channels(spec)
    channels = {c: torch.full((length,), 1e-3, dtype=d) for c, (length, d) in kinds.items()}
    before = _reset_peak()
    began = time.perf_counter()
    accumulators = Accumulators(strategy, spec)
    for client in range(updates):
        accumulators.add(
            ClientUpdate(
                ticket=Ticket(run="bench", round=1, client_id=client),
                base_version=0,
                num_examples=1 + client % 7,
                num_steps=1,
                channels=channels,
            )
        )
    context = RoundContext(
        round=1,
        population=updates,
        selected=updates,
        completed=updates,
        wanted=updates,
        states=state.transforms,
        noise={
            f"{link.name}/{channel}": torch.zeros(kinds[channel][0], dtype=torch.float64)
            for link in strategy.server
            for channel in (link.noise.channels if link.noise else ())
        },
    )
    step(strategy, spec, state, accumulators.finish(context), context)
    return Row(
        strategy=name,
        updates=updates,
        size=size,
        extra_mb=_peak_mb() - before,
        seconds=time.perf_counter() - began,
    )


def _reset_peak() -> float:
    """Make the kernel forget the peak so far; return what the process takes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def sums(name: str) -> bool:
    """Tell whether a strategy keeps no single updates."""
    strategy = compose(STRATEGIES[name]())
    return all("set" not in part.traits for part in strategy.parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="memory of aggregation")
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), help="these strategies")
    parser.add_argument("--json", action="store_true", help="print one object a row")
    given = parser.parse_args()
    if not given.json:
        print(f"{'strategy':20} {'extra MB':>9} {'seconds':>9}")
    for name in given.only or filter(sums, STRATEGIES):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            row = pool.submit(measure, name, given.updates, given.size).result()
        if given.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(f"{name:20} {row.extra_mb:9.1f} {row.seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
