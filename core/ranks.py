"""Processes that compute one run together, seen from one of them.

Every rank runs the whole algorithm; what a round costs, its clients' training, is divided. At a few
places they exchange what they have, all of them at the same places and in the same order.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from roundel.core.errors import RunFailed


class Ranks(Protocol):
    """All ranks of a run."""

    @property
    def rank(self) -> int:
        """Which one this is, from 0; rank 0 alone writes files and talks to the user."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def add_up_(self, own: Tensor) -> None:
        """Make a contiguous tensor the sum of all ranks', in place, without a copy of it.

        Args:
            own: Of the same shape and dtype on all of them.
        """
        ...

    def largest(self, own: Tensor) -> Tensor:
        """Return the elementwise maximum of all ranks' tensors."""
        ...

    def joined(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks' tensors, those of rank 0 first.

        Args:
            own: Shape ``(n, ...)``; n may differ from rank to rank.
        """
        ...

    def gathered(self, own: bytes) -> Sequence[bytes]:
        """Return what each rank has to say, that of rank 0 first."""
        ...

    def exchanged(self, parcels: Sequence[bytes]) -> Sequence[bytes]:
        """Return what each rank has for this one, that of rank 0 first.

        Args:
            parcels: What this one has for each rank, itself included.
        """
        ...


class Lost(RunFailed):
    """Another rank is not there any more."""


class Alone:
    """The only rank of a run."""

    rank = 0
    size = 1

    def add_up_(self, own: Tensor) -> None:
        """Leave its tensor as it is."""

    def largest(self, own: Tensor) -> Tensor:
        """Return its tensor."""
        return own

    def joined(self, own: Tensor) -> Tensor:
        """Return its tensor."""
        return own

    def gathered(self, own: bytes) -> Sequence[bytes]:
        """Return what it has to say."""
        return [own]

    def exchanged(self, parcels: Sequence[bytes]) -> Sequence[bytes]:
        """Return what it has for itself."""
        return parcels


ALONE = Alone()
