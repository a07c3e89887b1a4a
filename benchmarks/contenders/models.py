"""Models and examples of the workloads, made from seeds: every contender gets the same numbers."""

from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from contenders.jobs import LR, Job, Workload
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
SIDE = 28
"""Pixels along one edge of an image."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs ``(B, ...)`` and labels ``(B,)``, batch by batch."""


def make_model(workload: Workload) -> nn.Module:
    """Make a workload's model with its initial parameters, without the global generator."""
    model = _perceptron(workload.widths) if workload.widths else _cnn()
    generator = torch.Generator().manual_seed(0)
    bound = 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
    return model


def _perceptron(widths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _cnn() -> nn.Module:
    """Make the CNN of McMahan et al. for MNIST: 1,663,370 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (SIDE // 4) ** 2, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


@cache
def client_tensors(workload: Workload, client: int) -> tuple[Tensor, Tensor]:
    """Return one client's inputs and labels, made once in a process.

    Args:
        workload: Which.
        client: Its number.
    """
    if client >= workload.distinct:
        return client_tensors(workload, client % workload.distinct)
    generator = torch.Generator().manual_seed(client + 1)
    shape = (workload.widths[0],) if workload.widths else (1, SIDE, SIDE)
    inputs = torch.rand((workload.examples, *shape), generator=generator)
    return inputs, torch.randint(CLASSES, (workload.examples,), generator=generator)


def flat(model: nn.Module) -> Tensor:
    """Return a copy of a model's parameters as one vector on the CPU, shape ``(D,)``."""
    return torch.cat([value.detach().reshape(-1).cpu() for value in model.parameters()])


def keep_weights(job: Job, after: Tensor) -> None:
    """Write down the parameters before and after the first round.

    Args:
        job: Says where.
        after: Those after it, shape ``(D,)``.
    """
    np.save(job.weights, torch.stack([flat(make_model(job.workload)), after]).numpy())


class HandWritten:
    """Local training as one writes it by hand: what the bare loop and Flower's clients run.

    Attributes:
        model: The model, reused for client after client.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self.model = make_model(workload).to(device)
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)

    def train(self, batches: Batches) -> None:
        """Take a step for each batch."""
        for inputs, labels in batches:
            self._optimizer.zero_grad()
            functional.cross_entropy(self.model(inputs), labels).backward()
            self._optimizer.step()


@cache
def hand_written(workload: Workload, device: str) -> HandWritten:
    """Return this process's one model."""
    return HandWritten(workload, device)


@cache
def ordered_batches(workload: Workload, client: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """Return a client's batches in the order in which its examples lie, made once in a process."""
    tensors = (
        tensor.to(device).split(workload.batch) for tensor in client_tensors(workload, client)
    )
    return list(zip(*tensors, strict=True))
