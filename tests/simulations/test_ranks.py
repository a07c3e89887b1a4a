"""What ranks that are processes say to each other."""

from datetime import timedelta

import pytest
import torch

from roundel.core.ranks import ALONE, Lost
from roundel.simulations import kin
from roundel.simulations.ranks import Group, is_follower, is_launched, launched
from roundel.simulations.topologies.ring import meeting_point, process_group
from tests.companies import on_ranks

LONG = 10_000


@pytest.fixture(params=["told", "shown", "gloo"])
def company(request, monkeypatch, tmp_path):
    """Has ranks do something, and returns what each returns.

    Forks exchange what they have through sockets, or piece by piece in shared memory; those that
    torchrun has started do so by gloo.
    """
    if request.param == "shown":
        monkeypatch.setattr(kin, "_SHORT", 8)
        monkeypatch.setattr(kin, "_WINDOW", 64)
    if request.param != "gloo":
        return on_ranks

    def launched_ranks(size, work):
        def by_gloo(ranks):
            if size == 1:
                return work(ranks)
            store = meeting_point(tmp_path, size)
            group = process_group(store, ranks.rank, size, timedelta(minutes=1))
            return work(Group(group, ranks.rank, size))

        return on_ranks(size, by_gloo)

    return launched_ranks


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_gets_the_same_sums_and_maxima(company, size):
    def work(ranks):
        own = torch.tensor([ranks.rank, -ranks.rank], dtype=torch.float64)
        counter = torch.tensor([1 << 40, ranks.rank])
        nothing, sums = torch.zeros(0), own.clone()
        ranks.add_up_(nothing)
        ranks.add_up_(sums)
        after = [sums, ranks.largest(own), ranks.largest(counter), nothing]
        return [each.tolist() for each in after], own.tolist()

    ranks = range(size)
    last, total = size - 1, sum(ranks)
    expected = [[total, -total], [last, 0], [1 << 40, last], []]
    assert company(size, work) == [[expected, [rank, -rank]] for rank in ranks]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_long_sums_are_the_same_bits_on_all_ranks_again_and_again(company, size):
    def work(ranks):
        generator = torch.Generator().manual_seed(ranks.rank)
        own = torch.randn(3, 333, generator=generator)
        whole = torch.randint(1 << 40, (1000,), generator=generator)
        largest = ranks.largest(own)
        for _ in range(3):
            ranks.add_up_(own)
            ranks.add_up_(whole)
        return own.tolist(), whole.tolist(), largest.tolist()

    first, *others = company(size, work)
    assert all(other == first for other in others)
    generators = [torch.Generator().manual_seed(rank) for rank in range(size)]
    rows = torch.stack([torch.randn(3, 333, generator=each) for each in generators])
    whole = torch.stack([torch.randint(1 << 40, (1000,), generator=each) for each in generators])
    torch.testing.assert_close(torch.tensor(first[0]), rows.sum(0) * size**2)
    assert first[1] == (whole.sum(0) * size**2).tolist()
    assert first[2] == rows.amax(0).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("width", [1, LONG])
def test_rows_of_all_ranks_are_joined_in_their_order_however_many_each_has(company, dtype, width):
    def work(ranks):
        rows = torch.full((2 * ranks.rank, width), ranks.rank, dtype=dtype)
        joined = ranks.joined(rows)
        assert joined.dtype == dtype
        assert joined.shape == (6, width)
        return joined[:, -1].tolist()

    assert company(3, work) == [[1, 1, 2, 2, 2, 2]] * 3


def test_no_rows_at_all_are_joined_to_none(company):
    assert company(2, lambda ranks: list(ranks.joined(torch.zeros(0, 3)).shape)) == [[0, 3]] * 2


def test_what_each_rank_says_arrives_whole_long_or_short(company):
    def work(ranks):
        words = [b"", b"word", bytes(range(256)) * (LONG // 256), b"x" * 4088, b"x" * 4089]
        said = ranks.gathered(words[ranks.rank])
        again = ranks.gathered(words[ranks.rank + 2])
        assert list(said) == words[:3]
        assert list(again) == words[2:]
        return True

    assert company(3, work) == [True] * 3


def test_each_rank_gets_the_parcels_that_are_for_it(company):
    def work(ranks):
        parcels = [f"{ranks.rank} to {other}".encode() * ranks.rank for other in range(3)]
        first = [parcel.decode() for parcel in ranks.exchanged(parcels)]
        return first, [len(parcel) for parcel in ranks.exchanged([b"", b"", b""])]

    expected = [["", f"1 to {rank}", f"2 to {rank}" * 2] for rank in range(3)]
    assert company(3, work) == [[each, [0, 0, 0]] for each in expected]


def environment(monkeypatch, **values):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_process_is_launched_if_the_environment_says_which_of_several_ranks_it_is(monkeypatch):
    environment(monkeypatch)
    assert not is_launched()
    with launched() as ranks:
        assert ranks is ALONE
    environment(monkeypatch, RANK="1", WORLD_SIZE="2")
    assert not is_launched()
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    environment(monkeypatch, RANK="0", WORLD_SIZE="1", **where)
    assert not is_launched()
    environment(monkeypatch, RANK="0", WORLD_SIZE="2", **where)
    assert is_launched()
    assert not is_follower()
    environment(monkeypatch, RANK="1", WORLD_SIZE="2", **where)
    assert is_follower()


class Late:
    """Work that is done just after somebody gave up waiting for it, well or badly."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.waits = 0

    def wait(self, *_limit: object) -> None:
        self.waits += 1
        if self.waits == 1 or self.error:
            raise RuntimeError(self.error or "Operation timed out!")

    def is_completed(self) -> bool:
        return True


class Fake:
    """A process group whose work ends between a glance and the next look."""

    def __init__(self, error: str = "") -> None:
        self.error = error

    def allreduce(self, _tensor: torch.Tensor, _how: object) -> Late:
        return Late(self.error)


def test_what_is_done_just_after_a_glance_is_no_loss():
    own = torch.ones(2)
    Group(Fake(), rank=0, size=2).add_up_(own)
    assert own.tolist() == [1.0, 1.0]
    with pytest.raises(Lost, match="rank 0 lost the others: Connection closed"):
        Group(Fake("Connection closed. It was"), rank=0, size=2).add_up_(own)
