"""Metrics are a commutative monoid of sums and counts."""

import math
import random
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundel.core.metrics import (
    Metrics,
    accuracy,
    classification,
    classifications,
    merge,
    regression,
    spread,
    to_float,
)
from roundel.core.records import RESERVED, RoundRecord

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


def floats(sums: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: to_float(value) for name, value in sums.items()}


# Three examples of class 1, taken for 1, 0 and 1, and one of class 0, taken for 1.
OUTPUTS = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
TARGETS = torch.tensor([1, 1, 1, 0])


def test_accuracy_counts_right_answers() -> None:
    assert floats(accuracy(OUTPUTS, TARGETS)) == {"accuracy": 2.0}


def test_an_example_with_several_targets_counts_by_the_share_that_is_right() -> None:
    outputs = OUTPUTS.view(2, 2, 2)  # two texts of two characters each
    assert floats(accuracy(outputs, TARGETS.view(2, 2))) == {"accuracy": 0.5 + 0.5}
    assert floats(accuracy(outputs, torch.tensor([[1, 0], [1, 1]]))) == {"accuracy": 2.0}


def test_classification_counts_which_class_was_taken_for_which() -> None:
    assert floats(classification(OUTPUTS, TARGETS)) == {
        "accuracy": 2.0,
        "confusion/0/1": 1.0,
        "confusion/1/0": 1.0,
        "confusion/1/1": 2.0,
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_class_numbers_of_any_integer_type_are_counted(dtype: torch.dtype) -> None:
    scores = torch.eye(100)[[99, 3]]  # 99 * 100 + 99 does not fit into eight bits
    counts = classification(scores, torch.tensor([99, 99]).to(dtype))
    assert floats(counts) == {"accuracy": 1.0, "confusion/99/3": 1.0, "confusion/99/99": 1.0}


def test_more_than_100_classes_are_not_told_apart() -> None:
    assert floats(classification(torch.eye(101)[[7]], torch.tensor([7]))) == {"accuracy": 1.0}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20), st.integers(0, 20))
@LAWS
def test_confusion_is_the_same_however_the_examples_are_cut(
    pairs: list[tuple[int, int]], cut: int
) -> None:
    def counted(some: list[tuple[int, int]]) -> Metrics:
        scores = torch.eye(4)[[taken for _, taken in some]]
        sums = classification(scores, torch.tensor([true for true, _ in some], dtype=torch.int64))
        return Metrics(floats(sums), len(some))

    parts, whole = [counted(pairs[:cut]), counted(pairs[cut:])], counted(pairs)
    assert merge(parts) == whole
    matrix = whole.confusion() or []
    assert sum(map(sum, matrix)) == len(pairs)
    for true, row in enumerate(matrix):
        for taken, count in enumerate(row):
            assert count == pairs.count((true, taken))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), max_size=20))
@LAWS
def test_counting_for_several_owners_is_counting_for_each(rows: list[tuple[int, int, int]]) -> None:
    owners, trues, takens = torch.tensor(rows, dtype=torch.int64).view(-1, 3).unbind(1)
    scores = torch.eye(4)[takens]
    found = classifications(scores, trues, owners, 3)
    for owner, sums in enumerate(found):
        own = owners == owner
        assert sums == floats(classification(scores[own], trues[own]))


def test_more_than_100_classes_are_not_told_apart_for_any_owner() -> None:
    scores, targets = torch.eye(101)[[7, 8]], torch.tensor([7, 7])
    found = classifications(scores, targets, torch.tensor([1, 0]), 2)
    assert found == [{"accuracy": 0.0}, {"accuracy": 1.0}]


def test_counts_have_no_mean() -> None:
    assert Metrics({"loss": 6.0, "confusion/0/1": 2.0}, 4).means() == {"loss": 1.5}


def test_a_confusion_matrix_has_a_row_for_each_class_up_to_the_largest_seen() -> None:
    metrics = Metrics({"accuracy": 2.0, "confusion/0/2": 3.0, "confusion/2/2": 2.0}, 5)
    assert metrics.confusion() == [[0, 0, 3], [0, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize(
    "sums", [{"accuracy": 2.0}, {"confusion/a/b": 1.0, "confusion/1": 1.0}, {"confusion/0/0": 0.0}]
)
def test_metrics_that_count_no_confusion_have_no_matrix(sums: dict[str, float]) -> None:
    assert Metrics(sums, 2).confusion() is None


def test_names_that_mean_the_same_pair_are_added() -> None:
    assert Metrics({"confusion/0/0": 1.0, "confusion/00/0": 2.0}, 3).confusion() == [[3]]


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
    assert spread(values) == {
        "p10": 2.0,
        "p50": 10.0,
        "p90": 18.0,
        "variance": (21**2 - 1) / 12,
        "worst_tenth": 0.5,
    }


def test_the_worst_tenth_are_the_largest_where_small_is_good() -> None:
    values = [float(v) for v in range(21)]
    assert spread(values, lower_is_better=True) == spread(values) | {"worst_tenth": 19.5}


def test_the_spread_of_one_client_is_its_own_figure() -> None:
    own = {"p10": 0.25, "p50": 0.25, "p90": 0.25, "variance": 0.0, "worst_tenth": 0.25}
    assert spread([0.25]) == spread([0.25], lower_is_better=True) == own


def test_the_reserved_names_are_those_of_a_rounds_line():
    record = RoundRecord(
        round=1,
        metrics={},
        train_loss=None,
        cohort=1,
        completed=1,
        failures=0,
        bytes_up=0,
        bytes_down=0,
        seconds=0.0,
        params_sha256="",
        clients={},
        confusion=[[1]],
        stopped="why",
        privacy={"epsilon": 1.0, "delta": 1e-5},
        topology={"kind": "ring"},
        width=8,
    )
    assert record.line().keys() - {"accuracy"} == RESERVED


def test_texts_and_masked_targets_have_an_accuracy_and_no_confusion():
    outputs = torch.eye(2).repeat(3, 1, 1)  # three texts of two characters, taken for 0 and 1
    sums = classification(outputs, torch.tensor([[0, 1], [0, 0], [1, 0]]))
    assert {name: float(value) for name, value in sums.items()} == {"accuracy": 1.5}
