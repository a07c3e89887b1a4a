"""Sums over ranks: as gloo computes them between processes, and as a ring does on paper."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from roundel.core.errors import RunFailed

HOST = "127.0.0.1"
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: as long as the slowest evaluation may take."""
_TO_MEET = timedelta(minutes=5)


def ring_elements(size: int, ranks: int) -> list[int]:
    """Return how many numbers each rank sends when a vector is summed over a ring.

    About ``2 (p - 1) / p * M`` each, and exactly ``2 (p - 1) M`` together: a vector is cut into p
    pieces, of which a rank sends all but one while sums are made, and all but one while they go
    round.

    Args:
        size: M, the length of the vector.
        ranks: p.
    """
    pieces = [len(piece) for piece in torch.empty(size).tensor_split(ranks)]
    return [
        2 * size - pieces[(rank + 1) % ranks] - pieces[(rank + 2) % ranks] if ranks > 1 else 0
        for rank in range(ranks)
    ]


def ring_all_reduce(rows: Tensor) -> Tensor:
    """Sum vectors over a ring of ranks, each of which sends to the next one only.

    First every piece goes round once and is added to (reduce-scatter), then every sum goes round
    once (all-gather). Each piece is summed in one place, so all ranks end with the same bits.

    Args:
        rows: What each rank has, shape ``(p, M)``.

    Returns:
        What each rank has afterwards, shape ``(p, M)``: equal rows.

    Source:
        P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
        workstations", 2009; A. Sergeev and M. Del Balso, "Horovod: fast and easy distributed deep
        learning in TensorFlow", 2018.
    """
    ranks = len(rows)
    held = [list(row.clone().tensor_split(ranks)) for row in rows]
    for turn in range(ranks - 1):
        sent = [held[rank][(rank - turn) % ranks].clone() for rank in range(ranks)]
        for rank, piece in enumerate(sent):
            held[(rank + 1) % ranks][(rank - turn) % ranks] += piece
    for turn in range(ranks - 1):
        sent = [held[rank][(rank + 1 - turn) % ranks].clone() for rank in range(ranks)]
        for rank, piece in enumerate(sent):
            held[(rank + 1) % ranks][(rank + 1 - turn) % ranks] = piece
    return torch.stack([torch.cat(pieces) for pieces in held])


def has_gloo() -> bool:
    """Tell whether this build of torch can connect processes."""
    return distributed.is_available() and distributed.is_gloo_available()


def meeting_point(directory: Path, size: int) -> Any:  # noqa: ANN401 - torch declares no such type
    """Return where the ranks of one machine find each other.

    It is a file, which needs neither a thread, whose locks a fork would inherit, nor the names of
    addresses, for which torch would ask the network.

    Args:
        directory: Which all of them know, and nobody else may write to.
        size: How many there are.
    """
    store: Any = distributed.FileStore(  # type: ignore[attr-defined]
        str(directory / "meeting"), size
    )
    return store


def process_group(store: Any, rank: int, size: int, patience: timedelta) -> Any:  # noqa: ANN401
    """Connect this rank with all others of this machine, which must be about to do the same.

    No other machine can reach them.

    Args:
        store: Where they meet.
        rank: This one.
        size: How many there are.
        patience: How long it waits, once they have met, for one that computes.

    Returns:
        A process group of torch.

    Raises:
        RuntimeError: One did not come.
    """
    gloo: Any = distributed.ProcessGroupGloo  # torch declares little of it
    options = gloo._Options()  # noqa: SLF001 - the only way to say over which interface
    options._timeout = _TO_MEET  # noqa: SLF001
    options._devices = [gloo.create_device(hostname=HOST)]  # noqa: SLF001
    group = gloo(store, rank, size, options)
    group.set_timeout(patience)
    return group


class Ring:
    """The ranks of one run, seen from one of them.

    Attributes:
        rank: This one.
        size: p, how many there are.
    """

    def __init__(
        self,
        store: Any,  # noqa: ANN401 - see `meeting_point`
        rank: int,
        size: int,
        explain: Callable[[], str] = lambda: "",
    ) -> None:
        """Meet the others, which must be about to do the same.

        Args:
            store: Where they meet.
            rank: This one.
            size: How many there are.
            explain: Says why another rank may have ended.
        """
        self.rank, self.size = rank, size
        self._explain = explain
        try:
            self._group = process_group(store, rank, size, PATIENCE)
        except RuntimeError as error:
            raise self._lost(error) from error

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks, the same bits at each."""
        return self._reduced(tensor, distributed.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the elementwise maximum over all ranks."""
        return self._reduced(tensor, distributed.ReduceOp.MAX)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over all ranks, the same bits at each."""
        return self.total(tensor) / self.size

    def from_first(self, tensor: Tensor) -> Tensor:
        """Return what rank 0 has."""
        copy = tensor.clone()
        try:
            self._group.broadcast(copy, 0).wait()
        except RuntimeError as error:
            raise self._lost(error) from error
        return copy

    def _reduced(self, tensor: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
        copy = tensor.detach().clone()
        if copy.numel() == 0:
            return copy
        try:
            self._group.allreduce(copy, how).wait()
        except RuntimeError as error:
            raise self._lost(error) from error
        return copy

    def _lost(self, error: RuntimeError) -> RunFailed:
        said = self._explain() or f"rank {self.rank} lost the others: {str(error).split('. ')[0]}"
        return RunFailed(said)
