"""Metrics that merge by ``+``: sums and counts, never averages of averages.

A name with a slash is a *count*, such as ``confusion/3/5``: how many examples of class 3 were taken
for class 5. Counts merge like all sums; they have no mean, and figures such as precision and recall
are computed from them after merging, so that they are exact over any number of clients.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.errors import DataError

SPREAD = ("p10", "p50", "p90", "variance", "worst_tenth")
"""How `spread` calls its figures."""

_CONFUSION = "confusion"
_CELL = re.compile(rf"{_CONFUSION}/(\d+)/(\d+)", re.ASCII)
_MOST_CLASSES = 100


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
        """Return name to mean over the examples, counts left out; empty if there are none."""
        if self.count == 0:
            return {}
        return {n: total / self.count for n, total in self.sums.items() if "/" not in n}

    def confusion(self) -> list[list[int]] | None:
        """Return how many examples of each class were taken for which: rows are true classes.

        None if the metrics do not count it. A class beyond the largest one seen has no row.
        """
        cells: dict[tuple[int, int], int] = {}
        for name, count in self.sums.items():
            if match := _CELL.fullmatch(name):
                cell = int(match[1]), int(match[2])
                cells[cell] = cells.get(cell, 0) + int(count)
        if not any(cells.values()):
            return None
        classes = 1 + max(max(cell) for cell in cells)
        return [[cells.get((i, j), 0) for j in range(classes)] for i in range(classes)]


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


def accuracy(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Count right answers: ``accuracy`` as a sum over the batch.

    An example with several targets, such as the characters of a text, counts by the share of them
    that is right.

    Args:
        outputs: Scores, shape ``(B, ..., classes)``.
        targets: Class numbers, shape ``(B, ...)``.
    """
    right = (outputs.argmax(dim=-1) == targets).double().reshape(len(targets), -1)
    return {"accuracy": right.mean(dim=1).sum()}


def classification(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Count right answers, and up to 100 classes which class was taken for which.

    Args:
        outputs: Scores, shape ``(B, classes)``.
        targets: Class numbers, shape ``(B,)``.

    Returns:
        ``accuracy``, and a count ``confusion/TRUE/TAKEN`` for each pair of classes that occurs.
    """
    if targets.dim() != 1:
        return accuracy(outputs, targets)
    classes = outputs.shape[-1]
    taken = outputs.argmax(dim=-1)
    sums = {"accuracy": (taken == targets).sum()}
    if classes <= _MOST_CLASSES:
        counts = torch.bincount(targets.long() * classes + taken).cpu()
        found = counts.nonzero().flatten()
        for cell, count in zip(found.tolist(), counts[found], strict=True):
            sums[_cell_name(cell, classes)] = count
    return sums


def classifications(
    outputs: Tensor, targets: Tensor, owners: Tensor, count: int
) -> list[dict[str, float]]:
    """Return what `classification` says of the examples of each of several owners.

    Args:
        outputs: Scores, shape ``(B, classes)``.
        targets: Class numbers in ``range(classes)``, shape ``(B,)``.
        owners: Whose each example is, in ``range(count)``, int64, shape ``(B,)``.
        count: How many owners there are.
    """
    classes = outputs.shape[-1]
    taken = outputs.argmax(dim=-1)
    right = torch.bincount(owners[taken == targets], minlength=count)
    sums = [{"accuracy": float(number)} for number in right.tolist()]
    if classes <= _MOST_CLASSES:
        pairs = (owners * classes + targets.long()) * classes + taken
        found, counts = pairs.unique(return_counts=True)
        for pair, number in zip(found.tolist(), counts.tolist(), strict=True):
            owner, cell = divmod(pair, classes * classes)
            sums[owner][_cell_name(cell, classes)] = float(number)
    return sums


def _cell_name(cell: int, classes: int) -> str:
    """Return what the count of a cell of the confusion matrix is called; they go row by row."""
    return f"{_CONFUSION}/{cell // classes}/{cell % classes}"


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


def percentiles(ordered: NDArray[Any], *places: float) -> list[float]:
    """Return percentiles of ascending values, at least one, interpolated linearly.

    As `np.percentile` does, which at its first call imports numpy's masked arrays: half of what a
    small run takes to look at its partition.
    """
    last = len(ordered) - 1
    found: list[float] = np.interp(
        np.asarray(places) / 100 * last, np.arange(len(ordered)), ordered
    ).tolist()
    return found


def spread(values: Sequence[float], *, lower_is_better: bool = False) -> dict[str, float]:
    """Return how a figure is spread over clients.

    Args:
        values: One figure for each client; at least one.
        lower_is_better: Whether the worst clients are those with the largest figures.

    Returns:
        The percentiles ``p10``, ``p50`` and ``p90``, the (population) ``variance``, and the mean
        of the ``worst_tenth`` of the clients, rounded up to at least one.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    p10, p50, p90 = percentiles(ordered, 10, 50, 90)
    tenth = max(1, len(ordered) // 10)
    worst = ordered[-tenth:] if lower_is_better else ordered[:tenth]
    return {
        "p10": p10,
        "p50": p50,
        "p90": p90,
        "variance": float(ordered.var()),
        "worst_tenth": float(worst.mean()),
    }
