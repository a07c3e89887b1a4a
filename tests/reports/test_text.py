"""Tables and curves in plain text."""

from math import inf, nan

import pytest

from roundel.reports.text import figure, literal, sparkline, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5000"),
        (0.0, "0.0000"),
        (-1.23456, "-1.2346"),
        (0.00001, "1e-05"),
        (123456.7, "1.23e+05"),
        (7, "7"),
        (True, "True"),
        ("lost", "lost"),
        (None, "-"),
        (nan, "nan"),
    ],
)
def test_a_figure_takes_few_characters(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), ("é", '"é"'), (False, "false"), ([1, 2], "[1, 2]"), (None, "-")],
)
def test_a_literal_is_what_an_experiment_file_says(value, text):
    assert literal(value) == text


def test_columns_are_as_wide_as_their_widest_cell_and_lines_have_no_blanks_at_their_end():
    assert table(["name", "n"], [["a", "10"], ["longer", "2"]], right=["n"]) == [
        "name     n",
        "a       10",
        "longer   2",
    ]
    assert table(["a", "b"], [["1", ""]]) == ["a  b", "1"]


def test_the_lowest_value_of_a_curve_is_the_lowest_block_and_the_highest_the_highest():
    assert sparkline([1.0, 2.0, 1.5]) == "▁█▅"


def test_a_curve_has_gaps_where_there_is_no_finite_value():
    assert sparkline([1.0, None, nan, inf, 2.0]) == "▁   █"


def test_a_flat_curve_is_in_the_middle_and_an_empty_one_is_nothing():
    assert sparkline([3.0, 3.0]) == "▅▅"
    assert sparkline([]) == sparkline([None]) == ""


def test_more_values_than_characters_share_them_evenly():
    curve = sparkline([0.0] * 50 + [1.0] * 50, width=10)
    assert curve == "▁▁▁▁▁█████"
