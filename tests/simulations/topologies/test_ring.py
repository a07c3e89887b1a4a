"""Sums over ranks: the ring on paper, and gloo between threads."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
import torch

from roundel.core.errors import RunFailed
from roundel.simulations.topologies import ring
from roundel.simulations.topologies.ring import (
    Ring,
    meeting_point,
    ring_all_reduce,
    ring_elements,
)

T = TypeVar("T")


def on_ranks(count: int, do: Callable[[Ring], T]) -> Sequence[T]:
    """Run a function on each of several ranks, which are threads here."""
    rings: list[Ring] = []

    def one(rank: int) -> T:
        ring = Ring(meeting_point(Path(place), count), rank, count)
        rings.append(ring)  # one that is gone too early hangs up on those who still come
        return do(ring)

    with TemporaryDirectory() as place, ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def heard_at() -> set[str]:
    """The addresses at which this process listens, as the kernel writes them."""
    own = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            own.add(str(each.readlink()))
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    lines += Path("/proc/self/net/tcp6").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {
        each[1].split(":")[0] for each in fields if each[3] == "0A" and f"socket:[{each[9]}]" in own
    }


def sent_by(rows: torch.Tensor) -> list[int]:
    """Count what each rank sends, piece by piece, as the algorithm's description has it."""
    ranks = len(rows)
    lengths = [len(piece) for piece in rows[0].tensor_split(ranks)]
    sums = [[lengths[(rank - t) % ranks] for t in range(ranks - 1)] for rank in range(ranks)]
    rounds = [[lengths[(rank + 1 - t) % ranks] for t in range(ranks - 1)] for rank in range(ranks)]
    return [sum(a) + sum(b) for a, b in zip(sums, rounds, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_every_rank_ends_with_the_sum(ranks, size):
    rows = torch.randn(ranks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = rows.clone()
    after = ring_all_reduce(rows)
    torch.testing.assert_close(after, rows.sum(dim=0).expand(ranks, size))
    assert all(torch.equal(row, after[0]) for row in after)
    assert torch.equal(rows, before)
    assert ring_elements(size, ranks) == sent_by(rows)


@pytest.mark.parametrize(
    ("ranks", "size", "each"), [(4, 4, 6), (2, 10, 10), (5, 10, 16), (1, 9, 0)]
)
def test_each_rank_sends_two_parts_in_p_of_the_vector(ranks, size, each):
    assert ring_elements(size, ranks) == [each] * ranks  # 2 (p - 1) / p * M


def test_pieces_of_different_lengths_add_up_to_the_formula():
    # 5 numbers over 3 ranks: pieces of 2, 2 and 1. 2 * 5 less pieces 1 and 2, 2 and 0, 0 and 1.
    assert ring_elements(5, 3) == [7, 7, 6]
    assert sum(ring_elements(5, 3)) == 2 * (3 - 1) * 5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gloo_sums_as_the_ring_on_paper(count):
    rows = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]])[:count]
    summed = on_ranks(count, lambda ring: ring.total(rows[ring.rank]))
    assert [s.tolist() for s in summed] == ring_all_reduce(rows).tolist()
    means = on_ranks(count, lambda ring: ring.mean(rows[ring.rank]))
    assert [m.tolist() for m in means] == [(rows.sum(dim=0) / count).tolist()] * count


def test_gloo_gives_all_ranks_the_same_bits():
    rows = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    first, *others = on_ranks(3, lambda ring: ring.total(rows[ring.rank]))
    assert all(torch.equal(first, other) for other in others)


def test_the_largest_and_what_the_first_has():
    counters = torch.tensor([[1, 9], [5, 2]])
    largest = on_ranks(2, lambda ring: ring.largest(counters[ring.rank]).tolist())
    assert largest == [[5, 9], [5, 9]]
    first = on_ranks(2, lambda ring: ring.from_first(counters[ring.rank]).tolist())
    assert first == [[1, 9], [1, 9]]


def test_of_nothing_there_is_nothing_to_send():
    assert on_ranks(2, lambda ring: ring.mean(torch.empty(0)).tolist()) == [[], []]


def test_a_rank_that_is_gone_is_an_error_with_a_reason(tmp_path):
    def leave(rank: int) -> str:
        ring = Ring(meeting_point(tmp_path, 2), rank, 2, lambda: f"not rank {rank} went home")
        if ring.rank == 1:
            return ""
        with pytest.raises(RunFailed) as lost:
            ring.total(torch.ones(3))
        return str(lost.value)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(leave, range(2))) == ["not rank 0 went home", ""]


@pytest.mark.skipif(not Path("/proc/self/net/tcp6").exists(), reason="Linux alone tells this way")
def test_ranks_meet_where_no_other_machine_can_join():
    before = heard_at()
    localhost = b"\x7f\0\0\1"[::-1].hex().upper()
    for heard in on_ranks(2, lambda _: heard_at()):
        assert localhost in heard
        assert heard - before <= {localhost}


def test_a_rank_to_which_nobody_comes_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(ring, "_TO_MEET", timedelta(seconds=0.2))
    with pytest.raises(RunFailed, match="rank 0 lost the others: "):
        Ring(meeting_point(tmp_path, 2), 0, 2)


def test_a_rank_that_computes_is_waited_for_longer_than_one_that_does_not_come(monkeypatch):
    monkeypatch.setattr(ring, "_TO_MEET", timedelta(seconds=2.0))

    def late(each: Ring) -> float:
        time.sleep(2.5 * each.rank)
        return each.total(torch.ones(1)).item()

    assert on_ranks(2, late) == [2.0, 2.0]
