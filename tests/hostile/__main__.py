"""Attack a coordinator of one's own: ``python -m tests.hostile --cases 100000 --seed 0``."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.hostile.campaign import BOUND_BYTES, Figures, attack
from tests.hostile.cases import KINDS

PER_ROUND = 1000
_MIB = 1 << 20
_MOST_TOLD = 40


def table(figures: Figures) -> str:
    """Return the figures to read."""
    lines = [f"{'what was tried':28}{'cases':>8}{'slowest':>10}  how they ended"]
    for kind, endings in sorted(figures.endings.items()):
        how = ", ".join(f"{name} {count:,}" for name, count in endings.most_common())
        slowest = f"{figures.slowest_s[kind]:.2f} s"
        lines.append(f"{kind:28}{endings.total():8,}{slowest:>10}  {how}")
    before, after, peak = (size // _MIB for size in figures.memory)
    beats, slowest_s = figures.beats
    facts = {
        "cases": f"{figures.cases:,} over {figures.rounds:,} rounds",
        "honest answers": f"{figures.due:,} were due to be accepted, {figures.refused:,} were not",
        "heartbeats": f"{beats:,}, the slowest answered after {slowest_s:.2f} s",
        "memory": f"{before} MiB before, {after} after, {peak} at its peak; "
        f"{BOUND_BYTES // _MIB} more are allowed",
    }
    return "\n".join([*lines, "", *(f"{name:17}{fact}" for name, fact in facts.items())])


def verdict(figures: Figures) -> str:
    """Return what to think of them."""
    counts = Counter(figures.defects).most_common(_MOST_TOLD)
    told = "".join(f"{count:6} x {defect}\n" for defect, count in counts)
    return f"{told}verdict          " + ("defects were found" if counts else "it held")


def progress(rounds: int) -> Callable[[Figures], None]:
    """Return what says, after each round, how far it is."""
    began = time.monotonic()

    def show(figures: Figures) -> None:
        _say(
            f"{time.monotonic() - began:6.0f} s  round {figures.rounds} of {rounds}: "
            f"{figures.cases:,} cases, {len(figures.defects)} defects, "
            f"{figures.memory[1] // _MIB} MiB"
        )

    return show


def main() -> int:
    """Attack, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="by default one for 1,000 cases")
    parser.add_argument("--kind", action="append", choices=KINDS, help="by default all")
    parser.add_argument("--insecure", action="store_true", help="without certificates")
    args = parser.parse_args()
    rounds = args.rounds or 2 + max(1, args.cases // PER_ROUND)
    with tempfile.TemporaryDirectory(prefix="roundel-hostile-") as place:
        figures = attack(
            Path(place),
            cases=args.cases,
            rounds=rounds,
            seed=args.seed,
            kinds=args.kind or (),
            tls=not args.insecure,
            on_round=progress(rounds),
        )
    _say(f"\n{table(figures)}\n\n{verdict(figures)}")
    return bool(figures.defects)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
