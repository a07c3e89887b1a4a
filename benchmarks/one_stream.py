"""How fast a model travels between a coordinator and one node of a real federation.

    python benchmarks/one_stream.py
    python benchmarks/one_stream.py --megabytes 400 --json

`roundel serve` and one `roundel join` on this machine. Down is from the request to the model in the
node's memory, its digest compared; up is from the first message to the last one being on its way,
while the coordinator hashes the update and writes it to a file. The table has medians of all rounds
but the first.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from contenders.timed_node import STREAMS
from federation import BYTES, Failed, Job, run_roundel


def measure(megabytes: float, rounds: int, *, insecure: bool) -> dict[str, Any]:
    """Run a federation of one node; return how fast its streams were.

    Raises:
        Failed: It ended early.
    """
    job = Job(nodes=1, rounds=rounds, numbers=max(1, round(megabytes * 1e6 / BYTES)))
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder, "streams.jsonl")
        variables = {STREAMS: str(streams)}
        run_roundel(job, insecure=insecure, node="contenders.timed_node", **variables)
        lines = [json.loads(line) for line in streams.read_text().splitlines()]
    speeds: dict[str, list[float]] = {"down": [], "up": []}
    for line in lines:
        speeds[line["way"]].append(line["megabytes"] / line["seconds"])
    return {
        "wire": "insecure" if insecure else "TLS",
        "megabytes": megabytes,
        **{f"{way}_mb_s": round(median(found[1:])) for way, found in speeds.items()},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows for people."""
    lines = [f"{'wire':10} {'model MB':>9} {'down MB/s':>10} {'up MB/s':>9}"]
    lines += [
        f"{row['wire']:10} {row['megabytes']:9g} {row['down_mb_s']:10} {row['up_mb_s']:9}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one object per row")
    said = parser.parse_args()
    try:
        rows = [measure(said.megabytes, said.rounds, insecure=each) for each in (False, True)]
    except Failed as failed:
        sys.exit(f"roundel failed: {failed}")
    print("\n".join(map(json.dumps, rows)) if said.json else table(rows))


if __name__ == "__main__":
    main()
