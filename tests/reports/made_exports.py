"""Runs and a comparison of which everything that can be exported is known."""

import os
from pathlib import Path

from roundel.core.comparisonfile import FILE, Said, dump_comparison, load_comparison
from roundel.core.records import ClientRecord
from tests.reports.made_runs import make_run, record

BEGAN_S = 1_700_000_000


def made(path: Path, *settings: str, rounds: int = 2) -> Path:
    """A run of rounds that took half a second each; its client 7 failed in the first."""
    clients = [
        ClientRecord(round=1, client=3, status="accepted", num_examples=10, train_loss=0.5),
        ClientRecord(round=1, client=7, status="failed", reason="ValueError: no, thanks"),
    ]
    lines = [record(number) for number in range(1, rounds + 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    make_run(path, *lines, settings=settings, clients=clients if rounds else ())
    os.utime(path / "config.toml", (BEGAN_S, BEGAN_S))
    return path


def made_comparison(path: Path) -> Path:
    """A comparison of two arms and two seeds, of which the last run has not begun."""
    comparison = load_comparison(None, Said(arms=["fedavg", "fedprox mu=0.1"], seeds="0,1"))
    path.mkdir()
    (path / FILE).write_text(dump_comparison(comparison))
    for cell in list(comparison.cells())[:-1]:
        made(path / cell.path, f"seed={cell.seed}", f"strategy.name={cell.arm.title}")
    return path
