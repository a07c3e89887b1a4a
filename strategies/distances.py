"""What robust rules compute over rows: sorted columns and distances.

All of it runs over tiles of columns that fit the cache, so that beside the rows, which are float64
and so twice the updates of a float32 model, it takes little memory.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_TILE = 1 << 20  # numbers
_BLOCK = 256  # rows of the matrix of inner products that are computed at once
_CLOSE = 1e-4
"""Pairs whose squared distance is less than this share of their squared norms are not yet exact.

Inner products leave an error of about 1e-15 of the squared norms: 1e-11 of a larger distance.
"""


def column_tiles(rows: Tensor, among: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of columns and those columns, each sorted upwards, shape ``(C, K)``.

    Args:
        rows: Shape ``(K, D)``; stays as it is.
        among: The numbers of the rows to look at; all by default.
    """
    for where in _slices(rows.shape[1], len(rows)):
        tile = rows[:, where] if among is None else rows[among, where]
        columns = tile.t().clone(memory_format=torch.contiguous_format)
        columns.numpy().sort(axis=1)  # five times as fast as torch's
        yield where, columns


def over_columns(
    rows: Tensor, reduce: Callable[[Tensor], Tensor], among: Tensor | None = None
) -> Tensor:
    """Reduce each column: from sorted columns ``(C, K)`` to ``(C,)``.

    Args:
        rows: Shape ``(K, D)``.
        reduce: Sees some columns at a time.
        among: As in `column_tiles`.
    """
    reduced = rows.new_empty(rows.shape[1])
    for where, columns in column_tiles(rows, among):
        reduced[where] = reduce(columns)
    return reduced


def middle(columns: Tensor) -> Tensor:
    """Return the median of sorted columns ``(C, K)``; of an even number, the middle two's mean."""
    count = columns.shape[1]
    return (columns[:, (count - 1) // 2] + columns[:, count // 2]) / 2


def norms_from(rows: Tensor, point: Tensor) -> Tensor:
    """Return the Euclidean distance of each row ``(K, D)`` from a point ``(D,)``."""
    squares = rows.new_zeros(len(rows))
    for where in _slices(rows.shape[1], len(rows)):
        squares += (rows[:, where] - point[where]).square_().sum(dim=1)
    return squares.sqrt_()


def squared_distances(rows: Tensor) -> Tensor:
    """Return the squared Euclidean distance of each two rows ``(K, D)``, shape ``(K, K)``.

    By inner products, ``|a|**2 + |b|**2 - 2 a.b``, which is fast and, where a and b are long and
    close together, wrong. So rows are taken from their median, which no minority can push away, and
    groups that are still close for their length are looked at once more, from their own median.
    """
    return _squares(rows, torch.arange(len(rows)))


def _squares(rows: Tensor, among: Tensor) -> Tensor:
    count = len(among)
    if count * count * rows.shape[1] <= _TILE:
        return _by_subtraction(rows, among)
    products = rows.new_zeros(count, count)
    for where, columns in column_tiles(rows, among):
        tile = rows[among, where].sub_(middle(columns))
        for begin in range(0, count, _BLOCK):
            end = min(begin + _BLOCK, count)
            products[begin:end, :end].addmm_(tile[begin:end], tile[:end].t())
    products = products.tril() + products.tril(diagonal=-1).t()
    lengths = products.diagonal()
    both = lengths.unsqueeze(0) + lengths.unsqueeze(1)
    squares = (both - 2 * products).clamp_(min=0).fill_diagonal_(0)
    close = (squares < _CLOSE * both).fill_diagonal_(0)
    while bool(close.any()):
        row = int(close.sum(dim=1).argmax())
        close[row, row] = True
        group = close[row].nonzero().flatten()
        again = _squares if len(group) < count else _by_subtraction
        cells = (group.unsqueeze(1), group)
        squares[cells] = again(rows, among[group])
        close[cells] = False
    return squares


def _by_subtraction(rows: Tensor, among: Tensor) -> Tensor:
    squares = rows.new_zeros(len(among), len(among))
    for place in range(1, len(among)):
        one, others = among[place], among[:place]
        for where in _slices(rows.shape[1], place):
            squares[place, :place] += (rows[others, where] - rows[one, where]).square_().sum(dim=1)
    return squares + squares.t()


def _slices(columns: int, rows: int) -> Iterator[slice]:
    width = max(1, _TILE // max(1, rows))
    for begin in range(0, columns, width):
        yield slice(begin, min(begin + width, columns))
