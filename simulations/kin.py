"""Ranks that are forks of one process: a socket from each to rank 0, and memory that all share.

Whoever waits does so in a call to the kernel, and is woken by the one it waits for. A library that
talks in threads of its own, such as gloo, is slower on cores that all compute: its threads wait
for some milliseconds until it is their turn, as often as anything is said.
"""

import mmap
import socket
from collections.abc import Callable, Sequence
from typing import BinaryIO, Never, cast

import torch
from torch import Tensor

from roundel.core.params import bytes_of
from roundel.core.ranks import Lost
from roundel.simulations.spreading import gathered, joined, tensor_of

_WINDOW = 1 << 22
"""Bytes that a rank shows the others at once, twice: what was shown last may still be looked at."""
_SHORT = 1 << 15
"""Up to so many bytes are told through the socket, along with their number."""
_LENGTH = 8
_BUFFER = 1 << 16

Combine = Callable[[Tensor, Tensor], object]
"""Changes the first of two tensors by the second."""


class Windows:
    """What each rank shows the others; made before they are forked, and gone with the last one."""

    def __init__(self, size: int) -> None:
        """Make room for so many ranks; memory is taken as it is used."""
        memory = mmap.mmap(-1, 2 * size * _WINDOW)
        self._all = torch.frombuffer(memory, dtype=torch.uint8).view(2, size, _WINDOW)
        self._side = 0

    def turn(self) -> Tensor:
        """Return the windows to be used now, shape ``(ranks, bytes)``; each time the other ones."""
        self._side = 1 - self._side
        return self._all[self._side]


class Kin:
    """All ranks of a run on one machine.

    Attributes:
        rank: This one.
        size: How many there are.
    """

    def __init__(
        self, rank: int, size: int, channels: Sequence[socket.socket], windows: Windows
    ) -> None:
        """Take part.

        Args:
            rank: This one.
            size: How many there are.
            channels: To rank 0; from there, to all others in their order.
            windows: Those of all ranks.
        """
        self.rank, self.size = rank, size
        self._channels = channels
        self._heard = [cast(BinaryIO, each.makefile("rb", _BUFFER)) for each in channels]
        self._windows = windows

    def add_up_(self, own: Tensor) -> None:
        """Make a contiguous tensor the sum of all ranks', in place."""
        self._combine_(own, Tensor.add_)

    def largest(self, own: Tensor) -> Tensor:
        """Return the elementwise maximum of all ranks' tensors."""
        copy = own.clone()
        self._combine_(copy, lambda one, other: torch.maximum(one, other, out=one))
        return copy

    def joined(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks' tensors, those of rank 0 first."""
        return joined(self._spread, own)

    def gathered(self, own: bytes) -> Sequence[bytes]:
        """Return what each rank has to say, that of rank 0 first."""
        return gathered(self._spread, own)

    def exchanged(self, parcels: Sequence[bytes]) -> Sequence[bytes]:
        """Return what each rank has for this one, that of rank 0 first."""
        sizes = torch.tensor([[len(parcel) for parcel in parcels]])
        table = self.joined(sizes).tolist()
        found = []
        for target in range(self.size):  # one after another, so that nobody holds those of others
            lengths = [row[target] for row in table]
            parts = self._shown(tensor_of(parcels[target]), lengths, looks=target == self.rank)
            if target == self.rank:
                found = [bytes(bytes_of(part)) for part in parts]
        return found

    def _spread(self, own: Tensor) -> Sequence[Tensor]:
        """Return the bytes of all ranks."""
        said = self._told(len(own), bytes(bytes_of(own)) if len(own) <= _SHORT else b"")
        lengths = [length for length, _ in said]
        if max(lengths) <= _SHORT:
            return [tensor_of(text) for _, text in said]
        return self._shown(own, lengths)

    def _shown(
        self, own: Tensor, lengths: Sequence[int], *, looks: bool = True
    ) -> Sequence[Tensor]:
        """Show all ranks some bytes, piece by piece; return what all of them have shown.

        Args:
            own: This rank's bytes.
            lengths: How many each has.
            looks: Whether this rank wants them; others get nothing.
        """
        found = [torch.empty(length if looks else 0, dtype=torch.uint8) for length in lengths]
        for start in range(0, max(lengths), _WINDOW):
            windows = self._windows.turn()
            piece = own[start : start + _WINDOW]
            windows[self.rank, : len(piece)] = piece
            self._told()
            for part, window in zip(found, windows, strict=True):
                there = part[start : start + _WINDOW]
                there.copy_(window[: len(there)])
        return found

    def _combine_(self, own: Tensor, combine: Combine) -> None:
        flat = own.view(-1)
        if flat.nbytes <= _SHORT:
            if flat.numel():
                first, *others = self._spread(flat.view(torch.uint8))
                for other in others:
                    combine(first.view(flat.dtype), other.view(flat.dtype))
                flat.copy_(first.view(flat.dtype))
            return
        count = _WINDOW // flat.itemsize
        for piece in flat.split(count):
            windows = self._windows.turn().view(flat.dtype)[:, : len(piece)]
            windows[self.rank] = piece
            self._told()
            # Each rank puts a share of the numbers together, where nobody else looks.
            shares = [window.tensor_split(self.size)[self.rank] for window in windows]
            mine = shares.pop(self.rank)
            for other in shares:
                combine(mine, other)
            self._told()
            for share, done in enumerate(piece.tensor_split(self.size)):
                done.copy_(windows[share].tensor_split(self.size)[share])

    def _told(self, length: int = 0, own: bytes = b"") -> list[tuple[int, bytes]]:
        """Tell all ranks something; return what each has told, and how long it is in whole.

        As everybody waits for everybody, what a rank did before is done when this returns on any of
        them.

        Args:
            length: How long it is.
            own: What there is to say; nothing if it is too long to be told.
        """
        try:
            if self.rank:
                self._channels[0].sendall(_piece_of(length, own))
                return [self._piece(self._heard[0]) for _ in range(self.size)]
            said = [(length, own), *(self._piece(each) for each in self._heard)]
            whole = b"".join(_piece_of(*each) for each in said)
            for channel in self._channels:
                channel.sendall(whole)
        except OSError as error:
            self._lose(error)
        return said

    def _piece(self, source: BinaryIO) -> tuple[int, bytes]:
        """Read what a rank has told."""
        head = source.read(_LENGTH)
        length = int.from_bytes(head, "little")
        text = source.read(length) if length <= _SHORT else b""
        if len(head) < _LENGTH or (length <= _SHORT and len(text) < length):
            self._lose(None)
        return length, text

    def _lose(self, error: OSError | None) -> Never:
        raise Lost(f"rank {self.rank} lost the others: the connection was closed") from error


def _piece_of(length: int, text: bytes) -> bytes:
    return length.to_bytes(_LENGTH, "little") + text
