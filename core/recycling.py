"""Memory for large vectors that is used again as soon as nothing looks at it any more.

The system clears all memory that it hands out, and under a virtual machine it may have to find it
first: that can take longer than everything that is done with it then. Work that comes in rounds
asks for the same sizes again and again, so a little of what was let go of is kept for it.
"""

from collections import deque
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGE = 1 << 20
"""Bytes of the smallest vector that is worth it; blocks of memory are multiples."""

KEPT = 3
"""How many blocks are kept at most that nothing looks at: those that were let go of last."""

_ALIGNED = 64

_Block = NDArray[np.uint8]

_kept: deque[_Block] = deque(maxlen=KEPT)  # its operations are atomic: threads need no lock


def empty(size: int, dtype: torch.dtype) -> Tensor:
    """Return a vector of any numbers on the CPU, shape ``(size,)``, as `torch.empty` does."""
    nbytes = size * dtype.itemsize
    if nbytes < LARGE:
        return torch.empty(size, dtype=dtype)
    block = _taken(nbytes)
    if block is None:
        block = np.empty(_room(nbytes), np.uint8)
    return _vector(block, nbytes, dtype)


def zeros(size: int, dtype: torch.dtype) -> Tensor:
    """Return zeros on the CPU, shape ``(size,)``; new memory is not touched before it is used."""
    nbytes = size * dtype.itemsize
    if nbytes < LARGE:
        return torch.zeros(size, dtype=dtype)
    block = _taken(nbytes)
    if block is None:
        return _vector(np.zeros(_room(nbytes), np.uint8), nbytes, dtype)
    return _vector(block, nbytes, dtype).zero_()


def copied(vector: Tensor) -> Tensor:
    """Return a copy of a vector, wherever it lies."""
    if vector.device.type != "cpu":
        return vector.clone()
    return empty(len(vector), vector.dtype).copy_(vector)


def _room(nbytes: int) -> int:
    """Return the size of a block that has so many bytes behind an aligned place in it."""
    return -(-(nbytes + _ALIGNED) // LARGE) * LARGE


def _taken(nbytes: int) -> _Block | None:
    """Return a block that was kept and has the right size, if there is one."""
    for _ in range(len(_kept)):
        try:
            block = _kept.pop()
        except IndexError:  # another thread has taken it
            return None
        if len(block) == _room(nbytes):
            return block
        _kept.appendleft(block)
    return None


def _vector(block: _Block, nbytes: int, dtype: torch.dtype) -> Tensor:
    """Return the vector at the beginning of a block, which is kept once nothing looks at that."""
    start = -block.ctypes.data % _ALIGNED
    view = block[start : start + nbytes]
    finalize(view, _kept.append, block).atexit = False  # tensors hold on to the view
    return torch.from_numpy(view).view(dtype)
