"""A task whose training costs nothing, so that what a round takes is the federation's own."""

import torch
from torch import Tensor, nn

from roundel.core.data import ClientData, Examples
from roundel.core.task import Task
from roundel.core.training import TrainingContext, TrainingResult

TENSOR = 1_000_000
"""Numbers in each of the model's tensors, at most."""


class Weights(nn.Module):
    """A model that is nothing but parameters."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        sizes = [min(TENSOR, numbers - start) for start in range(0, numbers, TENSOR)]
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one output for each example."""
        return inputs * self.weights[0][:1]


def add_one(model: nn.Module, _examples: Examples, _context: TrainingContext) -> TrainingResult:
    """Change every parameter, and do no more."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return TrainingResult(steps=1)


class OneEach:
    """Clients with one example each."""

    def __init__(self, clients: int) -> None:
        self.size = clients

    def client(self, _client_id: int) -> ClientData:
        """Return a client's example."""
        one = Examples(torch.ones(1, 1), torch.ones(1, 1))
        return ClientData(train=one, validation=one, test=one)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def _no_metrics(_outputs: Tensor, _targets: Tensor) -> dict[str, Tensor]:
    return {}


def task(numbers: int = 1_000) -> Task:
    """Return the task.

    Args:
        numbers: How many parameters the model has.
    """
    return Task(
        name="payload",
        model=lambda: Weights(numbers),
        loss=_loss,
        metrics=_no_metrics,
        population=lambda clients, _seed: OneEach(clients),
        partition="natural",
        train=add_one,
        knobs={"numbers": numbers},
    )
