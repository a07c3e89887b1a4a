"""Metrics that merge by ``+``: sums and counts, never averages of averages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, nan

import numpy as np
import torch
from torch import Tensor

from roundel.core.errors import DataError


@dataclass(frozen=True)
class Metrics:
    """Sums over examples, and how many examples they cover.

    A commutative monoid: ``Metrics()`` is zero and ``+`` adds, so partial results of batches,
    clients and workers merge to what one pass over all examples would give.

    Attributes:
        sums: Name to the sum of that quantity over the examples, such as the loss.
        count: How many examples.
    """

    sums: Mapping[str, float] = field(default_factory=dict[str, float])
    count: int = 0

    def __add__(self, other: "Metrics") -> "Metrics":
        """Add sums and counts; a name that one side lacks counts as 0 there."""
        return merge((self, other))

    def means(self) -> dict[str, float]:
        """Return name to mean over the examples; empty if there are none."""
        if self.count == 0:
            return {}
        return {name: total / self.count for name, total in self.sums.items()}


def merge(parts: Iterable[Metrics]) -> Metrics:
    """Add many metrics with one correctly rounded sum a name, so that order does not matter."""
    gathered = list(parts)
    names = sorted({name for part in gathered for name in part.sums})
    return Metrics(
        {name: _sum([part.sums.get(name, 0.0) for part in gathered]) for name in names},
        sum(part.count for part in gathered),
    )


def _sum(values: Sequence[float]) -> float:
    """Add as floats do, but rounding once: a diverged client makes a sum inf or nan, no error."""
    try:
        return fsum(values)
    except OverflowError:
        return _sum([value * 2.0**-64 for value in values]) * 2.0**64
    except ValueError:  # inf and -inf
        return nan


def classification(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Count right answers: ``accuracy`` as a sum over the batch.

    Args:
        outputs: Scores, shape ``(B, classes)``.
        targets: Class numbers, shape ``(B,)``.
    """
    return {"accuracy": (outputs.argmax(dim=-1) == targets).sum()}


def regression(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sum the absolute error over the batch: ``mae``.

    Args:
        outputs: Predictions, shape ``(B, ...)``.
        targets: True values of the same shape.

    Raises:
        DataError: The shapes differ, where an elementwise error would mean something else.
    """
    if outputs.shape != targets.shape:
        raise DataError(
            f"outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)} do not pair up; reshape one of them"
        )
    per_example = (outputs - targets).abs().reshape(len(targets), -1)
    return {"mae": per_example.mean(dim=1).sum()}


def to_float(value: Tensor | float) -> float:
    """Return a 0-dimensional tensor or a number as a float."""
    return float(value.item()) if isinstance(value, torch.Tensor) else float(value)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return how a figure is spread over clients: percentiles, and the mean of the lowest tenth.

    Args:
        values: One figure for each client; at least one.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    p10, p50, p90 = (float(p) for p in np.percentile(ordered, [10, 50, 90]))
    lowest = ordered[: max(1, len(ordered) // 10)]
    return {"p10": p10, "p50": p50, "p90": p90, "lowest_tenth": float(lowest.mean())}
