"""Run directories made by hand, so that every figure in them is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from roundel.core.configfile import load_experiment
from roundel.core.history import History, read_history
from roundel.core.records import ClientRecord, RoundRecord, RoundReport
from roundel.core.rundir import RunDirectory

ENVIRONMENT = {
    "schema_version": 1,
    "run_id": "abc",
    "roundel": "0.1.0",
    "torch": "2.13.0",
    "engine": {"mode": "simulate", "threads": 1},
}


def words(line: str) -> str:
    """A line with one blank where it has several."""
    return " ".join(line.split())


def record(round: int, *, metrics: dict[str, float] | None = None, **changes: Any) -> RoundRecord:
    """A round in which 2 of 3 clients answered; its accuracy is a tenth of its number."""
    values: dict[str, Any] = {
        "round": round,
        "metrics": {"loss": 1 / round, "accuracy": round / 10} if metrics is None else metrics,
        "train_loss": 0.75,
        "cohort": 3,
        "completed": 2,
        "failures": 1,
        "bytes_up": 1_000,
        "bytes_down": 2_000,
        "seconds": 0.5,
        "params_sha256": f"{round:064x}",
    }
    return RoundRecord(**(values | changes))


def make_run(
    path: Path,
    *records: RoundRecord,
    settings: Sequence[str] = (),
    clients: Sequence[ClientRecord] = (),
    finished: bool = True,
    **environment: Any,
) -> History:
    """Write a run directory; the lines of `clients` belong to the rounds that they name."""
    experiment = load_experiment(None, settings)
    with RunDirectory.create(path, experiment, ENVIRONMENT | environment) as directory:
        for one in records:
            theirs = tuple(client for client in clients if client.round == one.round)
            directory.add_round(RoundReport(record=one, clients=theirs))
        if finished:
            directory.save_model({"weight": torch.zeros(1)})
    return read_history(path)
