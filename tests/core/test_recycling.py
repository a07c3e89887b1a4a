"""Memory that is used again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from roundel.core import recycling
from roundel.core.recycling import KEPT, LARGE, copied, empty, zeros

NUMBERS = LARGE // 4  # of float32, the fewest that are worth it


@pytest.fixture(autouse=True)
def nothing_kept():
    recycling._kept.clear()
    yield
    recycling._kept.clear()


@pytest.mark.parametrize("make", [empty, zeros])
@pytest.mark.parametrize("size", [0, 1, 1000, NUMBERS - 1, NUMBERS, NUMBERS + 1, 3 * NUMBERS + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_vectors_have_the_size_and_the_dtype_asked_for(make, size, dtype):
    vector = make(size, dtype)
    assert (vector.shape, vector.dtype) == ((size,), dtype)
    assert vector.is_contiguous()
    vector.fill_(3)  # all of it is there
    assert size == 0 or vector.data_ptr() % 64 == 0


def test_memory_is_used_again_once_nothing_looks_at_it():
    vector = empty(NUMBERS, torch.float32)
    where = vector.data_ptr()
    del vector
    assert empty(NUMBERS // 2, torch.float64).data_ptr() == where


@pytest.mark.parametrize(
    "look",
    [
        lambda vector: vector[5:9].view(2, 2),
        lambda vector: vector.view(torch.uint8),
        lambda vector: vector.numpy(),
        lambda vector: vector.numpy().data[:3],
        lambda vector: torch.frombuffer(vector.numpy().data, dtype=torch.float32),
        torch.nn.Parameter,
    ],
    ids=["view", "bytes", "numpy", "memoryview", "buffer", "parameter"],
)
def test_as_long_as_anything_looks_at_it_it_is_not(look):
    vector = zeros(NUMBERS, torch.float32)
    where, seen = vector.data_ptr(), look(vector)
    del vector
    other = empty(NUMBERS, torch.float32).fill_(1.0)
    assert other.data_ptr() != where
    del seen
    assert empty(NUMBERS, torch.float32).data_ptr() == where


def test_zeros_are_zeros_in_used_memory_too():
    used = empty(NUMBERS, torch.float32).fill_(7.0)
    where = used.data_ptr()
    del used
    again = zeros(NUMBERS, torch.float32)
    assert again.data_ptr() == where
    assert not again.any()


def test_what_has_another_size_is_left_alone():
    small = empty(NUMBERS, torch.float32)
    where = small.data_ptr()
    del small
    large = empty(4 * NUMBERS, torch.float32)
    assert len(recycling._kept) == 1
    again = empty(NUMBERS, torch.float32)
    assert again.data_ptr() == where
    assert large.data_ptr() != where


def test_only_a_few_blocks_are_kept():
    vectors = [empty(NUMBERS, torch.float32) for _ in range(KEPT + 4)]
    vectors.clear()
    assert len(recycling._kept) == KEPT


def test_short_vectors_are_none_of_its_business():
    del (short := [empty(8, torch.float32), zeros(8, torch.float32)])[:]
    assert not short
    assert not recycling._kept


def test_a_copy_is_one_of_its_own():
    vector = torch.arange(NUMBERS, dtype=torch.float32)
    copy = copied(vector)
    assert torch.equal(copy, vector)
    copy[0] = -1.0
    assert vector[0] == 0.0


def test_no_two_threads_get_the_same_memory():
    def fill(number: int) -> bool:
        for _ in range(60):
            mine = [zeros(NUMBERS, torch.float32) for _ in range(2)]
            if any(vector.any() for vector in mine):
                return False
            for vector in mine:
                vector.fill_(number)
            if not all(bool((vector == number).all()) for vector in mine):
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(fill, range(1, 5)))
