"""Metrics are a commutative monoid of sums and counts."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.metrics import Metrics, classification, merge, regression, spread, to_float

NAMES = st.sampled_from(["loss", "accuracy", "mae"])
EXACT = st.builds(  # integers below 2**50: every sum of a few is exact
    Metrics,
    st.dictionaries(NAMES, st.integers(-(2**50), 2**50).map(float)),
    st.integers(0, 10**6),
)
ANY = st.builds(
    Metrics,
    st.dictionaries(NAMES, st.floats(-1e300, 1e300)),
    st.integers(0, 10**6),
)
LAWS = settings(max_examples=30, deadline=None)


def bits(metrics: Metrics) -> tuple[dict[str, str], int]:
    return {name: value.hex() for name, value in metrics.sums.items()}, metrics.count


def test_metrics_add_sums_and_counts() -> None:
    total = Metrics({"loss": 3.0, "accuracy": 2.0}, 4) + Metrics({"loss": 1.5}, 1)
    assert total == Metrics({"loss": 4.5, "accuracy": 2.0}, 5)


def test_means_are_over_examples_and_not_over_parts() -> None:
    large, small = Metrics({"loss": 90.0}, 9), Metrics({"loss": 0.0}, 1)
    assert (large + small).means() == {"loss": 9.0}


def test_no_examples_have_no_means() -> None:
    assert Metrics({"loss": 1.0}).means() == {}
    assert Metrics().means() == {}


@given(ANY)
@LAWS
def test_the_empty_metrics_are_zero(metrics: Metrics) -> None:
    assert metrics + Metrics() == Metrics() + metrics == metrics


@given(ANY, ANY)
@LAWS
def test_addition_commutes(one: Metrics, two: Metrics) -> None:
    assert bits(one + two) == bits(two + one)


@given(EXACT, EXACT, EXACT)
@LAWS
def test_addition_of_exact_sums_is_associative(one: Metrics, two: Metrics, three: Metrics) -> None:
    assert (one + two) + three == one + (two + three) == merge([one, two, three])


@given(st.lists(ANY, max_size=10), st.randoms(use_true_random=False))
@LAWS
def test_merging_in_any_order_does_not_change_a_bit(
    parts: list[Metrics], randomness: random.Random
) -> None:
    shuffled = randomness.sample(parts, len(parts))
    assert bits(merge(shuffled)) == bits(merge(parts))


def test_merging_rounds_once() -> None:
    parts = [Metrics({"loss": value}, 1) for value in (1e16, 1.0, 1.0, -1e16)]
    assert merge(parts) == Metrics({"loss": 2.0}, 4)


def test_merging_nothing_gives_nothing() -> None:
    assert merge([]) == Metrics()


def test_merging_takes_an_iterator() -> None:
    assert merge(iter([Metrics({"loss": 1.0}, 1), Metrics({"mae": 1.0}, 1)])).count == 2


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([1e308, 1e308], math.inf),
        ([-1e308, -1e308], -math.inf),
        ([1e308, 1e308, -1e308], 1e308),
        ([math.inf, 1.0], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([1e308, 1e308, math.inf, -math.inf], math.nan),
    ],
)
def test_a_diverged_client_makes_a_figure_infinite_and_raises_nothing(
    values: list[float], total: float
) -> None:
    for order in (values, values[::-1]):
        merged = merge(Metrics({"loss": value}, 1) for value in order)
        assert merged.sums["loss"] == pytest.approx(total, rel=1e-15, nan_ok=True)


def test_accuracy_counts_right_answers() -> None:
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    sums = classification(outputs, torch.tensor([1, 1, 1]))
    assert {name: to_float(value) for name, value in sums.items()} == {"accuracy": 2.0}


def test_the_absolute_error_is_averaged_within_an_example_and_summed_over_them() -> None:
    outputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    sums = regression(outputs, torch.tensor([[0.0, 5.0], [0.0, -1.0]]))
    assert {name: to_float(value) for name, value in sums.items()} == {"mae": 2.5}
    assert regression(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 2.0]))["mae"] == 3.0


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2), torch.tensor(2.0)])
def test_numbers_and_tensors_become_floats(value: float | torch.Tensor) -> None:
    assert to_float(value) == 2.0
    assert type(to_float(value)) is float


def test_the_spread_of_a_figure_over_clients() -> None:
    values = [float(v) for v in range(20, -1, -1)]  # 21 clients: 0, 1, ..., 20
    assert spread(values) == {"p10": 2.0, "p50": 10.0, "p90": 18.0, "lowest_tenth": 0.5}


def test_the_spread_of_one_client_is_its_own_figure() -> None:
    assert spread([0.25]) == {"p10": 0.25, "p50": 0.25, "p90": 0.25, "lowest_tenth": 0.25}
