"""Curves of comparisons and runs."""

from dataclasses import replace

import pytest
from matplotlib.text import Text

from roundel.reports.bands import Band
from roundel.reports.curves import (
    Strip,
    column_figure,
    comparison_figure,
    comparison_strips,
    comparison_styles,
    rows_figure,
)
from roundel.reports.look import styles
from tests.reports.made_reports import made_band, made_report, xs, ys


def panel_of(*bands: Band, metric: str = "accuracy", target: float | None = None):
    """The first panel of a figure of these curves."""
    strip = Strip(title="", metric=metric, bands=bands, target=target)
    return column_figure(strip, styles([band.arm for band in bands])).axes[0]


def with_values(*values: float | None, arm: str = "fedavg") -> Band:
    band = made_band(arm, 0.8, rounds=len(values), width=None)
    return replace(band, mean=values)


def with_interval(*values: float, width: float) -> Band:
    low, high = (tuple(value + sign * width for value in values) for sign in (-1, 1))
    return replace(with_values(*values), low=low, high=high)


def test_one_metric_is_three_panels_above_each_other_as_wide_as_a_column():
    figure = comparison_figure(made_report(seeds="3"))
    assert figure.get_size_inches()[0] == 3.4
    words = [panel.get_xlabel() for panel in figure.axes]
    assert words == ["round", "sent and received (MB)", "time (s)"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["accuracy"] * 3
    (left,) = {panel.get_position().x0 for panel in figure.axes}
    assert left > 0


def test_several_metrics_and_problems_are_a_row_each_as_wide_as_a_page():
    report = made_report(
        ["fedavg", "fedprox"], metrics=["accuracy", "loss"], grid=["partition.alpha=0.1,1.0"]
    )
    strips = comparison_strips(report)
    assert [(s.title, s.metric) for s in strips] == [
        ("alpha=0.1", "accuracy"),
        ("alpha=0.1", "loss"),
        ("alpha=1.0", "accuracy"),
        ("alpha=1.0", "loss"),
    ]
    assert comparison_figure(report).get_size_inches()[0] == 7.0
    figure = rows_figure(strips[:2], comparison_styles(report))
    assert len(figure.axes) == 6
    assert figure.axes[0].get_title(loc="left") == "alpha=0.1"


def test_all_words_can_be_read_in_a_column():
    figure = comparison_figure(made_report(seeds="3"))
    sizes = [float(text.get_fontsize()) for text in figure.findobj(Text) if isinstance(text, Text)]
    assert min(sizes) >= 6.5


def test_the_baseline_is_drawn_like_the_first_wherever_it_stands():
    found = comparison_styles(made_report(["fedprox", "fedavg"], baseline="fedavg"))
    assert list(found) == ["fedavg", "fedprox"]


def test_a_line_goes_through_the_means_that_were_measured():
    line = panel_of(with_values(0.1, None, 0.3, float("nan"), 0.5)).lines[0]
    assert xs(line) == [1.0, 3.0, 5.0]
    assert ys(line) == [0.1, 0.3, 0.5]


def test_costs_are_in_units_that_make_short_numbers():
    figure = comparison_figure(made_report(seeds="3"))  # 40 rounds of 0.1 MB and 0.1 s
    ends = [xs(panel.lines[0])[-1] for panel in figure.axes]
    assert ends == pytest.approx([40.0, 4.0, 4.0])


def test_long_lines_are_thinned_and_keep_their_ends():
    line = panel_of(made_band("fedavg", 0.8, rounds=5_000)).lines[0]
    assert len(xs(line)) == 400
    assert (xs(line)[0], xs(line)[-1]) == (1.0, 5_000.0)


def test_the_interval_of_two_seeds_is_not_drawn():
    three, two = made_band("fedavg", 0.8), replace(made_band("fedavg", 0.8), seeds=2)
    assert len(panel_of(three).collections) == 1
    assert len(panel_of(two).collections) == 0


def test_a_curve_that_diverges_does_not_flatten_the_others():
    good = [with_values(2.0, 1.0, 0.5, arm=name) for name in ("a", "b")]
    low, high = panel_of(*good, with_values(2.0, 1e6, 1e30, arm="c"), metric="loss").get_ylim()
    assert (low <= 0.5, high) == (True, pytest.approx(6.5 + 0.04 * (6.5 - low), rel=0.3))


def test_wide_intervals_end_where_an_accuracy_can_be():
    low, high = panel_of(with_interval(0.0, 0.95, width=5.0)).get_ylim()
    assert (low, high) == pytest.approx((-0.04, 1.04))


def test_a_target_is_a_line_across():
    lines = panel_of(made_band("fedavg", 0.8), target=0.75).lines
    assert ys(lines[-1]) == [0.75, 0.75]


def test_where_nobody_sends_bytes_there_is_no_panel_for_them():
    alone = replace(made_band("local", 0.8), bytes=(0.0,) * 40)
    strip = Strip(title="", metric="accuracy", bands=(alone,))
    words = [panel.get_xlabel() for panel in column_figure(strip, styles(["local"])).axes]
    assert words == ["round", "time (s)"]


def test_what_was_never_measured_has_no_strip():
    report = made_report(["fedavg", "fedprox"])
    empty = tuple(replace(band, mean=(None,) * 40) for band in report.bands)
    assert comparison_strips(replace(report, bands=empty)) == []
    assert len(comparison_strips(replace(report, bands=(report.bands[0], empty[1])))) == 1
