"""Federations small enough to be worked out on paper.

A `Quadratic` is a client whose loss is one; `federate` simulates whole runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.history import History
from roundel.core.task import Task
from roundel.server.checkpoints import load_checkpoint
from roundel.simulations import Pieces, simulate
from roundel.strategies.compose import Strategy


@dataclass(frozen=True)
class Quadratic:
    """``F(w) = 1/2 (w - e)' A (w - e)``, whose gradient is ``A (w - e)``.

    Attributes:
        A: Symmetric, float64, shape ``(D, D)``.
        e: Its minimum, shape ``(D,)``.
    """

    A: Tensor
    e: Tensor

    @classmethod
    def of(cls, a: Sequence[float], b: Sequence[float]) -> "Quadratic":
        """Make ``1/2 sum(a (w - b)**2)``."""
        diagonal, centre = (torch.tensor(numbers, dtype=torch.float64) for numbers in (a, b))
        return cls(diagonal.diag(), centre)

    def examples(self, count: int = 1) -> Examples:
        """Return equal examples: the gradient of any batch of them is that of F."""
        one = torch.cat([self.A, self.e.unsqueeze(0)])
        return Examples(one.repeat(count, 1, 1), torch.zeros(count))


class Point(nn.Module):
    """A model that is one vector; an example's output is its loss."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        gap = self.w - inputs[:, -1]
        loss: Tensor = ((inputs[:, :-1] @ gap.unsqueeze(-1)).squeeze(-1) * gap).sum(dim=-1) / 2
        return loss


def quadratic_task(start: Tensor) -> Task:
    """Return the task of moving a point from where it starts."""
    return Task(
        name="quadratics",
        model=lambda: Point(start),
        loss=lambda outputs, _targets: outputs.mean(),
        metrics=lambda _outputs, _targets: {},
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated run left behind.

    Attributes:
        history: What it recorded.
        model: The final model's tensors by name.
        clients: The states that clients keep.
    """

    history: History
    model: Mapping[str, Tensor]
    clients: Mapping[int, ClientState]


def drawn_to(minima: Sequence[float], out: Path, strategy: Strategy, **how: Any) -> Outcome:
    """Simulate clients that draw a number, 0 at first, each to a minimum of its own.

    Args:
        minima: Client k has the loss ``(w - minima[k])**2 / 2``, and one example.
        out: An empty directory.
        strategy: The algorithm.
        how: As for `federate`; a client takes one full-batch step a round unless told otherwise.
    """
    clients = [Quadratic.of([1.0], [minimum]).examples() for minimum in minima]
    task = quadratic_task(torch.zeros(1, dtype=torch.float64))
    return federate(out, strategy, task, clients, **{"steps": 1, "batch_size": "full", **how})


def federate(
    out: Path,
    strategy: Strategy,
    task: Task,
    clients: Sequence[Examples],
    *,
    rounds: int = 1,
    cohort: int | None = None,
    root: Examples | None = None,
    **client: Any,
) -> Outcome:
    """Simulate a federation from its first round to its last.

    Args:
        out: An empty directory.
        strategy: The algorithm.
        task: What is learned.
        clients: What each client holds.
        rounds: How many.
        cohort: How many clients take part in a round; all by default.
        root: Root examples at the server.
        client: The experiment's `client` section.
    """
    experiment = Experiment.model_validate(
        {
            "rounds": rounds,
            "cohort": {"size": cohort or len(clients)},
            "client": client,
            "evaluation": {"clients": 0},
        }
    )
    pieces = Pieces(
        task=task, strategy=strategy, population=InMemoryPopulation.of(clients), root=root
    )
    history = simulate(experiment, pieces=pieces, out=out)
    adapted = strategy.adapted(task)
    last = load_checkpoint(out, adapted.spec(adapted.new_model(0)).fingerprint)
    assert last is not None
    return Outcome(history=history, model=load_file(out / "model.safetensors"), clients=last[1])
