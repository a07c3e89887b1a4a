"""Columns of few values are coded in their natural order, and columns are found by name."""

from pathlib import Path

import numpy as np
import pytest

from roundel.core.errors import ConfigError
from roundel.simulations.tasks.tables import (
    Coded,
    are_finite,
    are_whole_numbers,
    check_features,
    find_column,
)

NAMES = ["length", "width", "species"]


@pytest.mark.parametrize(
    ("values", "ordered", "codes"),
    [
        (["10", "9", "-1"], ["-1", "9", "10"], [2, 1, 0, 2]),
        (["10", "9", "b"], ["10", "9", "b"], [0, 1, 2, 0]),
        (["07", "1", "-2"], ["-2", "07", "1"], [1, 2, 0, 1]),
    ],
)
def test_whole_numbers_are_ordered_as_numbers_and_all_else_as_text(values, ordered, codes):
    coded = Coded.of(values, np.array([0, 1, 2, 0]))
    assert list(coded.values) == ordered
    assert coded.codes.tolist() == codes


@pytest.mark.parametrize("text", ["1.0", "", "07", "-0", "+1", "1_0", "٣", " 1"])
def test_a_whole_number_is_what_python_would_write(text):
    assert are_whole_numbers(["0", "-12", "7"])
    assert not are_whole_numbers(["0", text])


def test_what_float32_cannot_hold_is_not_finite():
    numbers = np.array([0.0, -3.4e38, 3.5e38, np.inf, np.nan])
    assert are_finite(numbers).tolist() == [True, True, False, False, False]


def test_a_missing_column_is_an_error_with_a_suggestion():
    assert find_column(Path("f.csv"), NAMES, "target", "width") == 1
    with pytest.raises(ConfigError) as caught:
        find_column(Path("f.csv"), NAMES, "target", "specie")
    assert str(caught.value) == (
        "task.target: f.csv has no column 'specie'; did you mean 'species'?"
    )


def test_a_feature_is_named_once_and_is_neither_target_nor_user():
    assert check_features(NAMES, [1, 0], (2, None)) == [1, 0]
    for features in ([0, 2], [0, 0]):
        with pytest.raises(ConfigError, match="is the target, the user or named twice"):
            check_features(NAMES, features, (2, None))
    with pytest.raises(ConfigError, match="names no column"):
        check_features(NAMES, [], (2, None))
