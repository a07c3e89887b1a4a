"""Small runs of topologies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.history import History
from roundel.core.task import Task
from roundel.simulations import Pieces, simulate
from tests.federations import Quadratic, quadratic_task

NONE = Examples(torch.zeros(0, 2, 1, dtype=torch.float64), torch.zeros(0))
TINY = (
    "rounds=3",
    "partition.clients=6",
    "cohort.size=3",
    "client.steps=2",
    "evaluation.clients=3",
    "checkpoint.every_s=0",
    "engine.executor=loop",
)
"""Settings of a run on digits whose rounds take milliseconds."""


def tiny(out: Path, *settings: str, **topology: object) -> History:
    """Run a few rounds on digits."""
    keys = [f"topology.{key}={value}" for key, value in topology.items()]
    return simulate(settings=[*TINY, *keys, *settings], out=out)


def everybody(out: Path, *settings: str, **topology: object) -> History:
    """The same, for the kind in which nobody can be left out."""
    return tiny(out, "cohort.size=6", *settings, **topology)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run on numbers left behind: the lines of its rounds, and the final number."""

    lines: Sequence[Mapping[str, Any]]
    w: float
    history: History


def point(start: float = 0.0) -> Task:
    """The task of moving one number."""
    return quadratic_task(torch.tensor([start], dtype=torch.float64))


def numbers(e: Sequence[float], counts: Sequence[int] | None = None) -> list[Examples]:
    """Clients whose loss is ``(w - e)**2 / 2``, so that a step of 1/2 halves the distance."""
    return [
        Quadratic.of([1.0], [number]).examples(count)
        for number, count in zip(e, counts or [1] * len(e), strict=True)
    ]


def on_numbers(
    out: Path,
    clients: Sequence[Examples],
    *,
    task: Task | None = None,
    rounds: int = 1,
    cohort: int | None = None,
    test: Tensor | None = None,
    strategy: Mapping[str, Any] | None = None,
    **topology: object,
) -> Ran:
    """Run with one step of 1/2 a client, full batches and float64; all clients in each round."""
    experiment = Experiment.model_validate(
        {
            "rounds": rounds,
            "cohort": {"size": cohort or len(clients)},
            "client": {"steps": 1, "lr": 0.5, "batch_size": "full"},
            "evaluation": {"clients_every": 1, "min_examples": 1},
            "strategy": strategy or {},
            "topology": topology,
        }
    )
    task = task or point()
    if test is not None:
        at = Quadratic.of([1.0], test.tolist()).examples()
        task = replace(task, load_test=lambda _path: at)
    held = [ClientData(train=each, validation=NONE, test=each) for each in clients]
    pieces = Pieces(task=task, population=InMemoryPopulation(held))
    history = simulate(experiment, pieces=pieces, out=out)
    (w,) = load_file(out / "model.safetensors")["w"].tolist()
    return Ran(lines=history.rounds, w=w, history=history)
