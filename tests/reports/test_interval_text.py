"""Figures have the digits that their intervals deserve."""

from math import nan

import pytest

from roundel.reports.interval_text import decimal, half_width, places, with_interval
from roundel.reports.statistics import Interval


def about(mean: float, half: float | None) -> Interval:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Interval(mean=mean, low=low, high=high, count=3)


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (0.9, 0.0112, 3),
        (0.9, 0.00112, 4),
        (0.9, 0.0000112, 4),
        (0.9, 0.3, 3),
        (2.5, 0.3, 2),
        (250.0, 30.0, 0),
        (0.9, None, 4),
        (0.9, 0.0, 4),
    ],
)
def test_two_digits_of_the_half_width_are_shown(
    mean: float, half: float | None, expected: int
) -> None:
    assert places([about(mean, half), None]) == expected


def test_a_column_has_the_digits_of_its_narrowest_interval() -> None:
    assert places([about(2.5, 0.3), about(2.5, 0.031)]) == 3


def test_an_interval_has_a_half_width_if_there_is_one() -> None:
    assert half_width(about(1.0, 0.25)) == 0.25
    assert half_width(about(1.0, None)) is None


def test_signs_are_shown_at_both_ends_and_nothing_is_minus_zero() -> None:
    assert with_interval(about(0.01, 0.02), 3, signed=True) == "+0.010 [-0.010, +0.030]"
    assert decimal(-0.0001, 3, signed=True) == "0.000"


def test_what_is_no_number_is_a_dash_and_what_is_huge_is_short() -> None:
    assert decimal(nan, 3) == "-"
    assert decimal(-123456789.0, 3, signed=True) == "-1.23e+08"
    assert with_interval(None, 3) == "-"
