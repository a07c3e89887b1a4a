"""Clients whose examples are drawn when they are asked for, for classification in a Gaussian space.

What the recipes of FedProx and of LEAF have in common: sizes with a log-normal tail, inputs around
a centre of the client's own with variances that fall as ``j ** -1.2``, and 90 of 100 examples to
train on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError

Floats = NDArray[np.float64]

TRAIN_PERCENT = 90
"""Of a client's examples, rounded down; the others are for its own test, none for validation."""


@dataclass(frozen=True, kw_only=True)
class GeneratedClients:
    """A population that costs nothing until a client is asked for.

    Attributes:
        size: How many clients there are.
        draw: Makes all examples of one client, in random order; a pure function of its number.
    """

    size: int
    draw: Callable[[int], Examples]

    def client(self, client_id: int) -> ClientData:
        """Return one client's data: the first 90 % to train on, the others to test on.

        Raises:
            DataError: There is no such client.
        """
        if not 0 <= client_id < self.size:
            raise DataError(
                f"there is no client {client_id}: the population has {self.size}, numbered from 0"
            )
        examples = self.draw(client_id)
        count = len(examples)
        cut = count * TRAIN_PERCENT // 100
        rows = torch.arange(count)
        return ClientData(
            train=examples.take(rows[:cut]),
            validation=examples.take(rows[:0]),
            test=examples.take(rows[cut:]),
        )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many examples clients have: ``min(least + floor(LogNormal(mean, sigma)), most)``.

    Attributes:
        mean: Mean of the logarithm.
        sigma: Standard deviation of the logarithm.
        least: Added to each.
        most: The cap.
    """

    mean: float
    sigma: float
    least: int
    most: int

    def draw(self, rng: np.random.Generator) -> int:
        """Draw one size."""
        return int(min(self.least + np.floor(rng.lognormal(self.mean, self.sigma)), self.most))


def gaussian(rng: np.random.Generator, count: int, centre: Floats) -> Floats:
    """Draw inputs ``x ~ N(centre, diag(j ** -1.2))``, j from 1.

    Args:
        rng: Where the draws come from.
        count: How many.
        centre: Shape ``(d,)``.

    Returns:
        Shape ``(count, d)``.
    """
    deviations = np.arange(1, len(centre) + 1) ** -0.6
    return rng.standard_normal((count, len(centre))) * deviations + centre


def labelled(inputs: Floats, scores: Floats) -> Examples:
    """Return float32 inputs, each with the class of its highest score.

    Args:
        inputs: Shape ``(n, d)``.
        scores: Shape ``(n, classes)``.
    """
    return Examples(
        torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(scores.argmax(axis=1))
    )


def logistic(dimension: int, classes: int) -> nn.Module:
    """Make a multinomial logistic regression that starts from zero.

    The problem is convex, so zero is as good a start as any, and the same for every model seed.
    """
    layer = nn.Linear(dimension, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
