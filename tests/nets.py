"""Small models of layers, and random examples to train them on."""

import torch
from torch import Tensor, nn

from roundel.core.data import Examples
from roundel.core.seeds import torch_generator


class Net(nn.Module):
    """Three numbers in, two classes out: a body, a norm with float buffers and a counter, a head.

    Args:
        momentum: Of the norm's averages; None: their plain mean, so that its counter matters.
    """

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4, momentum=momentum)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.norm(self.body(inputs)).tanh())
        return outputs


class TwoLayers(nn.Module):
    """Three numbers in, two classes out: 8 numbers of a body, 6 of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.head = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(inputs).tanh())
        return outputs


def labelled(seed: int, count: int = 6, dtype: torch.dtype = torch.float64) -> Examples:
    """Draw inputs of three numbers each, and one of two classes for each."""
    generator = torch_generator(seed)
    inputs = torch.randn(count, 3, generator=generator, dtype=dtype)
    return Examples(inputs, torch.randint(2, (count,), generator=generator))
