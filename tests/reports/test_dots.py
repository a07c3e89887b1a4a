"""Differences from the baseline, and how clients fare."""

from dataclasses import replace

import pytest

from roundel.reports.curves import comparison_styles
from roundel.reports.dots import differences_figure, spread_figure
from tests.reports.made_reports import made_report, xs


def test_differences_have_a_row_for_each_arm_but_the_baseline():
    report = made_report(["fedavg", "fedprox", "scaffold"], seeds="3")
    found = comparison_styles(report)
    figure = differences_figure(report.rows, "accuracy", "fedavg", found)
    assert figure is not None
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["fedprox", "scaffold"]
    assert panel.get_xlabel() == "accuracy: difference from fedavg"
    seeds = [line for line in panel.lines if len(xs(line)) == 3]
    assert xs(seeds[0]) == pytest.approx([0.01] * 3)  # faint: every seed
    low, high = panel.get_xlim()
    assert low == -high
    assert high > 0.02


def test_without_a_difference_there_is_no_figure():
    report = made_report(["fedavg"], seeds="3")
    assert differences_figure(report.rows, "accuracy", "fedavg", {}) is None


def test_clients_are_drawn_for_the_arms_that_measured_them():
    report = made_report(["fedavg", "fedprox"], seeds="3")
    rows = [report.rows[0], replace(report.rows[1], spread=None)]
    figure = spread_figure(rows, comparison_styles(report))
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["fedavg"]
    values = {x for line in figure.axes[0].lines for x in xs(line)}
    assert values == {0.3, 0.5, 0.8, 0.95}
    assert spread_figure(rows[1:], {}) is None


def test_a_long_name_leaves_room_for_the_dots():
    long = f"fedprox label='{'x' * 90}'"
    report = made_report(["fedavg", long], seeds="3")
    figure = spread_figure(report.rows, comparison_styles(report))
    assert figure is not None
    assert figure.axes[0].get_position().width > 0.4
