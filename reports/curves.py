"""Curves against rounds, bytes and seconds: for a paper, and for a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from roundel.reports.bands import Band
from roundel.reports.comparison import ComparisonReport
from roundel.reports.look import (
    COLUMN,
    PAGE,
    Style,
    add_legend,
    axes_at,
    empty_figure,
    legend_height,
    looking,
    shown,
    styles,
)

SEEDS_FOR_A_BAND = 3
"""The interval of two seeds is so wide that it shows nothing but itself."""

MOST_ROWS = 6
"""So many rows of panels are as high as a page."""

_LEFT, _RIGHT = 0.5, 0.14
_PANEL, _AXIS, _BETWEEN = 1.2, 0.34, 0.36
_TITLE = 0.16
_STEPS = (1, 2, 5, 10)
"""Between the numbers of an axis."""
_MOST_POINTS = 400
"""More points of a line than this cannot be seen."""
_MARKERS_A_LINE = 6
_REACH = 4.0
"""A curve may end so many times as high as the usual one before its end is cut off."""
_SHARES = ("accuracy", "precision", "recall")
_ROOM = 0.25
"""The share of the curves' height that intervals may add above and below."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Curves of one metric that share their panels.

    Attributes:
        title: What to write above, such as the problem; empty for nothing.
        metric: What is drawn.
        bands: A curve each.
        target: A line across, if there is one.
    """

    title: str
    metric: str
    bands: tuple[Band, ...]
    target: float | None = None


_Point = tuple[float, float, float | None, float | None]
"""Cost, mean, and the ends of its interval."""


@dataclass(frozen=True)
class _Axis:
    """What is spent along a panel's axis, in the unit in which it is written."""

    cost: str
    words: str
    unit: float


def comparison_figure(report: ComparisonReport) -> Figure:
    """Draw a comparison for a paper.

    One metric of one problem is three panels above each other, as wide as a column. Several are a
    row each, as wide as a page, and those that do not fit are left out: the page of the report has
    them all.

    Returns:
        A figure to be printed without scaling: its letters have 6.5 points and more.
    """
    return strips_figure(comparison_strips(report), comparison_styles(report))


def strips_figure(strips: Sequence[Strip], found: Mapping[str, Style]) -> Figure:
    """Draw strips, at least one, for a paper: a column wide, or a page if there are several."""
    if len(strips) == 1:
        return column_figure(strips[0], found)
    return rows_figure(strips[:MOST_ROWS], found)


def comparison_styles(report: ComparisonReport) -> dict[str, Style]:
    """Return the style of each arm; the baseline's is the first."""
    labels = [arm.label for arm in report.comparison.arms]
    return styles(sorted(labels, key=lambda label: label != report.comparison.report.baseline))


def comparison_strips(report: ComparisonReport) -> list[Strip]:
    """Return the curves of each problem and metric that has any, in the report's order."""
    spec = report.comparison.report
    strips = [
        Strip(
            title=problem.label,
            metric=metric,
            bands=tuple(
                b for b in report.bands if (b.problem, b.metric) == (problem.label, metric)
            ),
            target=spec.targets.get(metric),
        )
        for problem in report.comparison.problems
        for metric in spec.metrics
    ]
    return [strip for strip in strips if any(map(_is_drawn, strip.bands))]


def _of(bands: Sequence[Band], problem: str, metric: str) -> Iterator[Band]:
    return (band for band in bands if (band.problem, band.metric) == (problem, metric))


def column_figure(strip: Strip, found: Mapping[str, Style]) -> Figure:
    """Draw one metric as panels above each other, a column wide."""
    with looking():
        axes = _axes_of([strip])
        head = legend_height(list(found), COLUMN) + _TITLE * bool(strip.title)
        height = head + len(axes) * (_PANEL + _AXIS) + 0.05
        figure = empty_figure(COLUMN, height)
        add_legend(figure, found, 0.05)
        for place, axis in enumerate(axes):
            bottom = height - head - (place + 1) * (_PANEL + _AXIS) + _AXIS
            panel = axes_at(figure, _LEFT, bottom, COLUMN - _LEFT - _RIGHT, _PANEL)
            _draw(panel, strip, axis, found)
            panel.set_ylabel(shown(strip.metric))
            if place == 0 and strip.title:
                panel.set_title(shown(strip.title), loc="left", pad=3)
    return figure


def rows_figure(strips: Sequence[Strip], found: Mapping[str, Style], width: float = PAGE) -> Figure:
    """Draw each metric as a row of panels beside each other.

    Args:
        strips: A row each, at least one.
        found: The style of each curve.
        width: In inches.
    """
    with looking():
        axes = _axes_of(strips)
        head = legend_height(list(found), width)
        titled = any(strip.title for strip in strips)
        row = _TITLE * titled + _PANEL * 1.1 + _AXIS + 0.04
        height = head + row * len(strips)
        figure = empty_figure(width, height)
        add_legend(figure, found, _LEFT - 0.2)
        wide = (width - _LEFT - _RIGHT - _BETWEEN * (len(axes) - 1)) / len(axes)
        for line, strip in enumerate(strips):
            bottom = height - head - row * (line + 1) + _AXIS
            for place, axis in enumerate(axes):
                left = _LEFT + place * (wide + _BETWEEN)
                panel = axes_at(figure, left, bottom, wide, _PANEL * 1.1)
                _draw(panel, strip, axis, found)
                if place == 0:
                    panel.set_ylabel(shown(strip.metric))
                    panel.set_title(shown(strip.title), loc="left", pad=3)
    return figure


def _axes_of(strips: Sequence[Strip]) -> list[_Axis]:
    """Return what there is to draw against: nobody sends bytes where everyone trains alone."""
    bands = [band for strip in strips for band in strip.bands]
    most = {
        cost: max((max(getattr(b, cost), default=0.0) for b in bands), default=0.0)
        for cost in ("rounds", "bytes", "seconds")
    }
    axes = [_Axis("rounds", "round", 1.0)]
    if most["bytes"] > 0:
        unit, name = _unit(most["bytes"], _BYTES)
        axes.append(_Axis("bytes", f"sent and received ({name})", unit))
    if most["seconds"] > 0:
        unit, name = _unit(most["seconds"], _SECONDS)
        axes.append(_Axis("seconds", f"time ({name})", unit))
    return axes


_Unit = tuple[float, float, str]
"""From where on a unit is used, what it is, and its name."""

_BYTES: Sequence[_Unit] = (
    (1e12, 1e12, "TB"),
    (1e9, 1e9, "GB"),
    (1e6, 1e6, "MB"),
    (1e3, 1e3, "kB"),
    (0.0, 1.0, "B"),
)
_SECONDS: Sequence[_Unit] = (
    (7200.0, 3600.0, "h"),
    (120.0, 60.0, "min"),
    (1.0, 1.0, "s"),
    (0.0, 1e-3, "ms"),
)


def _unit(most: float, units: Sequence[_Unit]) -> tuple[float, str]:
    """Return the unit of an axis that goes so far."""
    return next((unit, name) for least, unit, name in units if most >= least)


def _draw(panel: Axes, strip: Strip, axis: _Axis, found: Mapping[str, Style]) -> None:
    drawn = [band for band in strip.bands if _is_drawn(band)]
    for band in drawn:
        _draw_band(panel, band, axis, found[band.arm])
    if strip.target is not None:
        panel.axhline(strip.target, linewidth=0.7, linestyle=(0, (1, 2)), color="#808080")
    limits = _limits(drawn, strip.metric, strip.target)
    if limits is not None:
        panel.set_ylim(*limits)
    panel.set_xlim(left=0.0)
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=axis.cost == "rounds", steps=_STEPS))
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    panel.set_xlabel(axis.words, labelpad=1.5)
    panel.tick_params(pad=2)


def _draw_band(panel: Axes, band: Band, axis: _Axis, style: Style) -> None:
    costs = getattr(band, axis.cost)
    measured: list[_Point] = [
        (cost / axis.unit, mean, low, high)
        for cost, mean, low, high in zip(costs, band.mean, band.low, band.high, strict=True)
        if mean is not None and isfinite(mean)
    ]
    points = _thinned(measured)
    xs, means = [p[0] for p in points], [p[1] for p in points]
    step = max(1, len(points) // _MARKERS_A_LINE)
    panel.plot(
        xs,
        means,
        color=style.colour,
        linestyle=style.dash,
        marker=style.marker,
        markevery=((style.place * step) // 4 % step, step),
        markeredgewidth=0.0,
        zorder=3,
    )
    sure = [(x, low, high) for x, _, low, high in points if low is not None and high is not None]
    if sure and band.seeds >= SEEDS_FOR_A_BAND:
        panel.fill_between(
            [x for x, _, _ in sure],
            [low for _, low, _ in sure],
            [high for _, _, high in sure],
            color=style.colour,
            alpha=0.15,
            linewidth=0.0,
            zorder=2,
        )


def _thinned(points: Sequence[_Point]) -> list[_Point]:
    """Return at most so many points as can be seen, evenly, the first and the last among them."""
    count, last = min(len(points), _MOST_POINTS), len(points) - 1
    return [points[i * last // max(1, count - 1)] for i in range(count)]


def _is_drawn(band: Band) -> bool:
    return bool(_finite(band.mean))


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and isfinite(value)]


def _limits(bands: Sequence[Band], metric: str, target: float | None) -> tuple[float, float] | None:
    """Return the ends of the vertical axis.

    Neither a curve that diverges nor the wide interval of two seeds may flatten all the others.
    """
    if not bands:
        return None
    means = [_finite(band.mean) for band in bands]
    least, most = min(map(min, means)), max(map(max, means))
    usual = median(map(max, means))
    top = min(most, least + _REACH * (usual - least)) if usual > least else most
    room = _ROOM * (top - least) or 0.05 * abs(top) or 0.05
    sure = [band for band in bands if band.seeds >= SEEDS_FOR_A_BAND]
    low = max(least - room, min([least, *(v for band in sure for v in _finite(band.low))]))
    high = min(top + room, max([top, *(v for band in sure for v in _finite(band.high))]))
    if target is not None and least - room <= target <= top + room:
        low, high = min(low, target), max(high, target)
    if least >= 0:  # what is never below 0 has no room there, and no share is above 1
        low = max(low, 0.0)
    if metric.endswith(_SHARES):
        high = min(high, 1.0)
    margin = 0.04 * (high - low) or room
    return low - margin, high + margin
