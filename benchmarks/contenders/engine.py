"""Roundel, through its public API: a run directory is written, and nothing is evaluated.

A round is timed from the end of one to the end of the next, as the other contenders' are: that is
what ``metrics.jsonl`` says plus what it costs to write the run directory.
"""

import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from contenders.jobs import LR, Job, Workload, now_s
from contenders.models import client_tensors, keep_weights, make_model

from roundel.core.data import ClientData, Examples
from roundel.core.errors import RoundelError
from roundel.core.modelfile import read_model
from roundel.core.records import RoundReport
from roundel.core.task import Task
from roundel.simulations import simulate
from roundel.simulations.prepare import Pieces


@dataclass(frozen=True)
class Clients:
    """The clients of a workload."""

    workload: Workload

    @property
    def size(self) -> int:
        """How many there are."""
        return self.workload.population

    def client(self, client_id: int) -> ClientData:
        """Return one client's data, made once in a process."""
        train = Examples(*client_tensors(self.workload, client_id))
        none = Examples(train.inputs[:0], train.targets[:0])
        return ClientData(train=train, validation=none, test=none)


def settings_of(job: Job) -> list[str]:
    """Return a job in the words of an experiment file."""
    return [
        f"rounds={job.rounds + 1}",
        f"cohort.size={job.workload.cohort}",
        f"client.lr={LR}",
        "client.epochs=1",
        f"client.batch_size={job.workload.batch}",
        "evaluation.clients=0",
        f"engine.executor={job.executor}",
        f"engine.workers={job.workers}",
        f"engine.device={job.device}",
    ]


def run(job: Job) -> None:
    """Run the job.

    Raises:
        RoundelError: A key is wrong, or the run failed.
    """
    ends_s: list[float] = []

    def note(_report: RoundReport) -> None:
        ends_s.append(now_s())

    pieces = Pieces(
        task=Task(name=job.workload.name, model=partial(make_model, job.workload)),
        population=Clients(job.workload),
    )
    with tempfile.TemporaryDirectory(dir=job.folder) as place:
        history = simulate(
            settings=settings_of(job), pieces=pieces, out=Path(place) / "run", on_round=note
        )
        job.answer(ends_s)
        if job.rounds == 0:
            tensors = read_model(history.path)
            names = [name for name, _ in make_model(job.workload).named_parameters()]
            keep_weights(job, torch.cat([tensors[name].reshape(-1) for name in names]))


def main() -> None:
    """Run the job; an error of Roundel's own is a sentence."""
    try:
        run(Job.of_command())
    except RoundelError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
