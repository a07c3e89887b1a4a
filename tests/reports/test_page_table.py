"""Cells of a page's tables."""

from roundel.reports.page_table import (
    Value,
    bytes_value,
    figure_value,
    interval_value,
    number_value,
    seconds_value,
)
from roundel.reports.statistics import Interval


def test_cells_say_short_numbers_and_sort_by_exact_ones():
    assert figure_value(0.5) == Value(text="0.5000", value=0.5)
    assert number_value(12.0) == Value(text="12", value=12.0)
    assert bytes_value(1_234_567.8) == Value(text="1.2 MB", value=1_234_567.8)
    assert seconds_value(1.23456) == Value(text="1.23", value=1.23456)


def test_what_is_not_known_is_a_dash_that_sorts_last():
    nothing = Value(text="-")
    makers = (figure_value, number_value, bytes_value, seconds_value)
    assert [make(None) for make in makers] == [nothing] * 4
    assert interval_value(None, 3) == nothing


def test_an_interval_stands_below_its_mean():
    found = Interval(mean=0.0312, low=0.0121, high=0.0503, count=5)
    assert interval_value(found, 3, signed=True) == Value(
        text="+0.031", small="[+0.012, +0.050]", value=0.0312
    )
    alone = Interval(mean=0.5, low=None, high=None, count=1)
    assert interval_value(alone, 3, strong=True) == Value(text="0.500", value=0.5, strong=True)
