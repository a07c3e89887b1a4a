"""Derived seeds, sampling, and putting the global generators back."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import combinations, repeat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.seeds import (
    derive,
    generator_states,
    integers_below,
    isolated_rng,
    same_host_states,
    same_states,
    sample,
    torch_generator,
)

SEEDS = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("seed", "purpose", "round", "client", "value"),
    [
        (0, "model", 0, 0, 8001012545997133149),
        (0, "batches", 1, 0, 8924299830727247373),
        (42, "batches", 3, 7, 8557899883206608473),
        (-1, "batches", 3, 7, 6708031258156223457),
        (2**63 - 1, "cohort", 1, 0, 2073929838085745405),
        (-(2**63), "x", 0, 0, 4192187441801333246),
    ],
)
def test_derived_seeds_never_change(
    seed: int, purpose: str, round: int, client: int, value: int
) -> None:
    assert derive(seed, purpose, round, client) == value


def test_draws_of_the_whole_federation_are_those_of_round_and_client_0() -> None:
    assert derive(3, "model") == derive(3, "model", 0, 0)


def test_every_argument_changes_the_derived_seed() -> None:
    seeds = {
        derive(seed, purpose, round, client)
        for seed in (-1, 0, 1)
        for purpose in ("", "batches", "cohort")
        for round in (0, 1, 2)
        for client in (0, 1, 2)
    }
    assert len(seeds) == 81


@given(
    SEEDS, st.sampled_from(["", "batches", "größe"]), st.integers(0, 2**40), st.integers(0, 2**40)
)
@settings(max_examples=50, deadline=None)
def test_derived_seeds_suit_torch_numpy_and_python(
    seed: int, purpose: str, round: int, client: int
) -> None:
    derived = derive(seed, purpose, round, client)
    assert 0 <= derived < 2**63
    assert torch_generator(derived).initial_seed() == derived


def test_generators_of_equal_seeds_draw_the_same() -> None:
    one, two = torch_generator(5), torch_generator(5)
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=two))


def test_samples_never_change() -> None:
    assert sample(100, 10, derive(0, "cohort", 1)) == [6, 15, 34, 40, 55, 56, 71, 77, 85, 90]


def test_a_sample_of_a_huge_population_costs_nothing() -> None:
    assert sample(10**12, 5, 1) == [
        227655206336,
        232157400103,
        377147371392,
        379404263259,
        521210987652,
    ]
    assert len(sample(10**12, 10, 2)) == 10


@given(st.data(), st.integers(0, 2**63 - 1), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_samples_are_sorted_distinct_and_in_range(
    data: st.DataObject, seed: int, population: int
) -> None:
    size = data.draw(st.integers(0, population))
    drawn = sample(population, size, seed)
    assert len(drawn) == len(set(drawn)) == size
    assert drawn == sorted(drawn)
    assert all(0 <= member < population for member in drawn)


def test_sampling_everyone_returns_everyone() -> None:
    assert sample(7, 7, seed=3) == [0, 1, 2, 3, 4, 5, 6]


def test_every_pair_is_sampled_equally_often() -> None:
    draws = 3000
    counts = Counter(tuple(sample(6, 2, derive(0, "pairs", i))) for i in range(draws))
    expected = draws / 15
    chi_square = sum((counts[p] - expected) ** 2 / expected for p in combinations(range(6), 2))
    assert chi_square < 36.1  # 14 degrees of freedom exceed it once in a thousand times


@pytest.mark.parametrize(("population", "size"), [(3, 4), (3, -1), (0, 1)])
def test_a_sample_larger_than_the_population_is_refused(population: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot draw {size} distinct integers from {population}"):
        sample(population, size, seed=0)


def test_integers_below_a_bound_are_equally_often() -> None:
    draws = 7000
    counts = Counter(integers_below(repeat(7, draws), seed=11))
    assert set(counts) == set(range(7))
    chi_square = sum((counts[i] - 1000) ** 2 / 1000 for i in range(7))
    assert chi_square < 22.5  # 6 degrees of freedom exceed it once in a thousand times


def test_integers_below_a_huge_bound_are_unbiased() -> None:
    # 2**64 = 1.33.. * bound: without rejection the lowest third would come up half of the time.
    bound = 3 * 2**62
    low = sum(draw < 2**62 for draw in integers_below(repeat(bound, 3000), seed=1))
    assert 900 < low < 1100


def test_each_integer_is_below_its_own_bound() -> None:
    assert list(integers_below(iter([1, 1, 1]), seed=0)) == [0, 0, 0]
    bounds = [1, 2, 3, 10**6, 2**62]
    assert all(0 <= i < b for i, b in zip(integers_below(iter(bounds), 9), bounds, strict=True))


def draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.random()), random.random()  # noqa: NPY002


def test_an_isolated_generator_is_seeded_in_torch_numpy_and_python() -> None:
    with isolated_rng(5):
        first = draws()
    with isolated_rng(5):
        assert draws() == first
    with isolated_rng(6):
        other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_outside_of_an_isolated_generator_nothing_has_moved() -> None:
    with isolated_rng(1):
        undisturbed = [draws(), draws()]
    with isolated_rng(1):
        disturbed = [draws()]
        with isolated_rng(2):
            draws()
        disturbed.append(draws())
    assert disturbed == undisturbed


def test_an_isolated_generator_is_put_back_after_an_exception() -> None:
    def fail() -> None:
        with isolated_rng(2):
            draws()
            raise RuntimeError

    with isolated_rng(1):
        undisturbed = draws()
    with isolated_rng(1):
        with pytest.raises(RuntimeError):
            fail()
        assert draws() == undisturbed


def test_states_are_the_same_until_something_is_drawn() -> None:
    assert same_states(generator_states(), generator_states())


@pytest.mark.parametrize(
    ("draw", "on_host"),
    [
        (lambda: torch.rand(()), False),
        (np.random.random, True),
        (np.random.standard_normal, True),
        (random.random, True),
    ],
)
def test_a_draw_from_any_generator_is_seen(draw: Callable[[], object], on_host: bool) -> None:
    with isolated_rng(1):
        before = generator_states()
        draw()
        after = generator_states()
    assert not same_states(before, after)
    assert same_host_states(before, after) != on_host


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_every_derived_seed_can_isolate(seed: int) -> None:
    with isolated_rng(seed):
        assert torch.initial_seed() == seed


def test_the_generator_of_a_gpu_in_use_is_seeded_and_put_back(monkeypatch) -> None:
    log: list[object] = []
    state = torch.tensor([7], dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.cuda, "manual_seed", log.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state", log.append)
    with isolated_rng(5):
        assert log == [5]
    assert log[1] is state
