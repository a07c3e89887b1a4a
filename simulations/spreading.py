"""Rows and words of all ranks, from whatever spreads bytes among them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from roundel.core.params import bytes_of

Spread = Callable[[Tensor], Sequence[Tensor]]
"""From a rank's bytes, shape ``(n,)``, to those of all ranks, that of rank 0 first."""


def joined(spread: Spread, own: Tensor) -> Tensor:
    """Return the rows of all ranks' tensors; see `roundel.core.ranks.Ranks`."""
    found = spread(own.contiguous().view(-1).view(torch.uint8))
    parts = [part.view(own.dtype) for part in found if len(part)]
    return torch.cat(parts).view(-1, *own.shape[1:]) if parts else own


def gathered(spread: Spread, own: bytes) -> list[bytes]:
    """Return what each rank has to say; see `roundel.core.ranks.Ranks`."""
    return [bytes(bytes_of(part)) for part in spread(tensor_of(own))]


def tensor_of(data: bytes) -> Tensor:
    """Return a copy of bytes as a tensor."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
