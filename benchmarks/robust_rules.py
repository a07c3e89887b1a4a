"""How long robust aggregation takes on one core, and how much memory beside the updates.

    python benchmarks/robust_rules.py [--clients N] [--size D] [--json] [RULE ...]

By default 1,000 updates of 100,000 numbers, drawn at random, for every rule. Each runs in a process
of its own with one thread; what is drawn is not timed. Where other programs share the processor,
the seconds of CPU say more.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from roundel.core.messages import PARAMS
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Strategy, compose
from roundel.strategies.registry import make_strategy
from roundel.strategies.sites import RoundContext

RULES: Mapping[str, Callable[[], Strategy]] = {
    "median": lambda: make_strategy("median", {}),
    "trimmed_mean": lambda: make_strategy("trimmed_mean", {}),
    "krum": lambda: make_strategy("krum", {}),
    "multi_krum": lambda: make_strategy("multi_krum", {}),
    "bulyan": lambda: make_strategy("bulyan", {}),
    "bulyan, one-shot": lambda: make_strategy("bulyan", {"selection": "one-shot"}),
    "geometric_median": lambda: make_strategy("geometric_median", {}),
    "rfa": lambda: make_strategy("rfa", {}),
    "centred_clipping": lambda: make_strategy("centred_clipping", {"iterations": 3}),
    "fltrust": lambda: make_strategy("fltrust", {}),
    "nnm": lambda: make_strategy("nnm", {}),
    "bucketing": lambda: make_strategy("bucketing", {}),
    "nnm, then krum": lambda: make_strategy("krum", {}, ["nnm"]),
    "mean of rows": compose,
}


def measure(rule: str, clients: int, size: int) -> dict[str, float]:
    """Return the seconds of one call and the megabytes that it needed beside the rows."""
    torch.set_num_threads(1)
    aggregator = RULES[rule]().aggregators[PARAMS]
    over = aggregator.rule if isinstance(aggregator, OverRows) else lambda rows, *_: rows.mean(0)
    call(over, rows_of(10, 10))  # so that nothing is loaded later
    rows = rows_of(clients, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, cpu = call(over, rows)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "extra_mb": round((after - before) / unit, 1),
    }


def rows_of(clients: int, size: int) -> torch.Tensor:
    """Return updates: a step that all share, and what is their own."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.empty(clients, size, dtype=torch.float64).normal_(generator=generator)
    return rows.add_(torch.linspace(-1, 1, size, dtype=torch.float64))


def call(over: Callable[..., torch.Tensor], rows: torch.Tensor) -> tuple[float, float]:
    """Run a rule once; return the seconds, and those that the processor worked on it."""
    context = RoundContext(
        round=1,
        population=len(rows),
        selected=len(rows),
        completed=len(rows),
        root={PARAMS: rows[0].clone()},
        states={"centred_clipping": {"v": rows[1].clone()}},
    )
    weights = torch.ones(len(rows), dtype=torch.float64)
    began, worked = time.perf_counter(), time.process_time()
    over(rows, weights, context)
    return time.perf_counter() - began, time.process_time() - worked


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rules", nargs="*", metavar="RULE", help=", ".join(RULES))
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one object a line")
    said = parser.parse_args()
    if not said.json:
        print(f"{said.clients:,} updates of {said.size:,} numbers")
        print(f"{'rule':18} {'seconds':>8} {'of CPU':>8} {'extra MB':>9}")
    for rule in said.rules or RULES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            measured = process.submit(measure, rule, said.clients, said.size).result()
        if said.json:
            print(json.dumps({"rule": rule, "n": said.clients, "D": said.size, **measured}))
        else:
            seconds, cpu, extra = measured.values()
            print(f"{rule:18} {seconds:8.2f} {cpu:8.2f} {extra:9.0f}", flush=True)


if __name__ == "__main__":
    main()
