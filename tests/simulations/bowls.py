"""Runs whose loss is known everywhere: half the squared distance from a point."""

from pathlib import Path

import torch
from torch import Tensor, nn

from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.history import History
from roundel.core.task import Task
from roundel.simulations import Pieces, simulate

BOTTOM = (1.0, -1.0, 2.0, 0.5)
"""Where the loss of the global test set is 0."""

TARGETS = ((3.0, 0.0, 0.0, 1.0), (0.0, 3.0, 1.0, 0.0), (-1.0, 0.0, 4.0, 0.0), (0.0, 1.0, 0.0, 5.0))
"""Where the loss of each client is 0."""


class Point(nn.Module):
    """Says its parameters, whatever it is asked: two filters of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight.reshape(1, 4).expand(len(inputs), 4)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).sum(dim=1).mean() / 2


def nothing(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {}


def pulled_to(*target: float) -> Examples:
    return Examples(torch.zeros(2, 1), torch.tensor([target, target]))


def clients() -> InMemoryPopulation:
    none = pulled_to(*BOTTOM).take(torch.empty(0, dtype=torch.int64))
    return InMemoryPopulation(
        [ClientData(train=pulled_to(*t), validation=none, test=none) for t in TARGETS]
    )


PIECES = Pieces(
    task=Task(
        name="bowl",
        model=Point,
        loss=half_square,
        metrics=nothing,
        load_test=lambda _path: pulled_to(*BOTTOM),
    ),
    population=clients(),
)


def run_to(out: Path, *settings: str, pieces: Pieces = PIECES) -> History:
    """Let two of four clients go half the way to their targets in each of five rounds."""
    usual = ["rounds=5", "cohort.size=2", "client.steps=1", "client.lr=0.5", "evaluation.clients=0"]
    return simulate(settings=[*usual, *settings], pieces=pieces, out=out)
