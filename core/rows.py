"""Vectors of one length, looked at together: for short ones that takes a fraction of the time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, linalg

_NUMBERS = 1 << 17
"""How many numbers of rows stay in a processor's cache while they are looked at."""


def stretches(count: int, length: int) -> Iterator[slice]:
    """Divide rows into stretches of as many as are best looked at together.

    Args:
        count: How many rows there are.
        length: Of each.
    """
    together = max(1, _NUMBERS // max(1, length))
    return (slice(start, start + together) for start in range(0, count, together))


def rows_of(vectors: Sequence[Tensor]) -> Tensor:
    """Return at least one tensor of a shape as rows, without copying if all are the same one."""
    first = vectors[0]
    if all(vector is first for vector in vectors):
        return first.expand(len(vectors), *first.shape)
    return torch.stack(list(vectors))


def magnitudes(rows: Tensor) -> list[float]:
    """Return the largest absolute value of each row.

    Args:
        rows: Shape ``(K, n)``, floats.

    Returns:
        K numbers: NaN where a row has one, and 0 of rows of no length.
    """
    if not rows.numel():
        return [0.0] * len(rows)
    largest: list[float] = torch.maximum(rows.amax(dim=1), -rows.amin(dim=1)).tolist()
    return largest


def norms(rows: Tensor) -> list[float]:
    """Return the Euclidean norm of each row, to the bits that it has alone.

    Args:
        rows: Shape ``(K, n)``, floats.
    """
    found: list[float] = linalg.vector_norm(rows, dim=1).tolist()
    return found
