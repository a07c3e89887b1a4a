"""Ranks that torchrun has started, on one machine or on several."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from roundel.core.errors import RunFailed
from roundel.core.params import bytes_of
from roundel.core.ranks import ALONE, Lost, Ranks
from roundel.simulations.spreading import gathered, joined, tensor_of

PATIENCE = timedelta(days=7)
"""How long a rank waits for one that trains; that a process has ended is noticed at once."""

_GLANCE = timedelta(seconds=0.2)
_SHORT = 1 << 15
"""Bytes that go round at once: up to so many take as long as a few."""

_LENGTH = 8
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Group:
    """All ranks of a run, each a process of its own.

    Attributes:
        rank: This one.
        size: How many there are.
    """

    def __init__(self, group: Any, rank: int, size: int) -> None:  # noqa: ANN401 - see `connected`
        """Take part.

        Args:
            group: A process group of torch.
            rank: This one.
            size: How many there are.
        """
        self.rank, self.size = rank, size
        self._group = group

    def add_up_(self, own: Tensor) -> None:
        """Make a contiguous tensor the sum of all ranks', in place."""
        self._reduce_(own, distributed.ReduceOp.SUM)

    def largest(self, own: Tensor) -> Tensor:
        """Return the elementwise maximum of all ranks' tensors."""
        copy = own.clone()
        self._reduce_(copy, distributed.ReduceOp.MAX)
        return copy

    def joined(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks' tensors, those of rank 0 first."""
        return joined(self._spread, own)

    def gathered(self, own: bytes) -> Sequence[bytes]:
        """Return what each rank has to say, that of rank 0 first."""
        return gathered(self._spread, own)

    def exchanged(self, parcels: Sequence[bytes]) -> Sequence[bytes]:
        """Return what each rank has for this one, that of rank 0 first."""
        sizes = [len(parcel) for parcel in parcels]
        all_sizes = self.joined(torch.tensor([sizes])).tolist()
        mine = [row[self.rank] for row in all_sizes]
        sent, received = tensor_of(b"".join(parcels)), torch.empty(sum(mine), dtype=torch.uint8)
        if any(map(sum, all_sizes)):
            self._do(self._group.alltoall_base, received, sent, mine, sizes)
        return [bytes(bytes_of(part)) for part in received.split(mine)]

    def _reduce_(self, own: Tensor, how: distributed.ReduceOp.RedOpType) -> None:
        if own.numel():
            self._do(self._group.allreduce, own, how)

    def _spread(self, own: Tensor) -> list[Tensor]:
        """Return the bytes of all ranks; what is short goes round once, the rest once more."""
        first = torch.zeros(_SHORT, dtype=torch.uint8)
        first[:_LENGTH] = tensor_of(len(own).to_bytes(_LENGTH, "little"))
        begin = own[: _SHORT - _LENGTH]
        first[_LENGTH : _LENGTH + len(begin)] = begin
        firsts = self._all(first)
        lengths = [int.from_bytes(bytes_of(each[:_LENGTH]), "little") for each in firsts]
        longest = max(lengths) + _LENGTH - _SHORT
        parts = [each[_LENGTH:] for each in firsts]
        if longest > 0:
            rest = torch.zeros(longest, dtype=torch.uint8)
            rest[: max(0, len(own) - len(begin))] = own[len(begin) :]
            parts = [torch.cat(both) for both in zip(parts, self._all(rest), strict=True)]
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def _all(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._do(self._group.allgather, [parts], [own])
        return parts

    def _do(self, what: Any, *arguments: Any) -> None:  # noqa: ANN401 - torch declares nothing
        """Do what all ranks do now, and wait for it; the user may interrupt that."""
        try:
            work = what(*arguments)
        except RuntimeError as error:
            raise _lost(self.rank, error) from error
        while True:
            try:
                work.wait(_GLANCE)
            except RuntimeError:  # it takes longer, or it has failed
                if work.is_completed():
                    return self._end(work)
            else:
                return None

    def _end(self, work: Any) -> None:  # noqa: ANN401 - likewise
        """Find out how something ended that may have done so just after a glance."""
        try:
            work.wait()
        except RuntimeError as error:
            raise _lost(self.rank, error) from error


def _lost(rank: int, error: RuntimeError) -> Lost:
    return Lost(f"rank {rank} lost the others: {str(error).split('. ')[0]}")


def is_launched() -> bool:
    """Tell whether torchrun, or what does the same, has started this process as one of several."""
    return all(os.environ.get(name) for name in _LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1


def is_follower() -> bool:
    """Tell whether it has started this one as another than the first."""
    return is_launched() and int(os.environ["RANK"]) > 0


@contextmanager
def launched() -> Iterator[Ranks]:
    """Yield the ranks that torchrun has started; this one alone if it has started none.

    They talk by gloo also where each computes on a GPU: all that they tell each other lies on the
    CPU.
    """
    if not is_launched():
        yield ALONE
        return
    try:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunFailed(f"the ranks did not meet at {where}: {error}") from error
    try:
        group = distributed.group.WORLD
        yield Group(group, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
