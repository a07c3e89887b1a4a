"""Differences and spreads as dots with lines: which arm is better, and for which clients."""

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from roundel.reports.arms import Row
from roundel.reports.look import Style, axes_at, empty_figure, looking, shown

WIDTH = 3.6
"""Inches: two of them fit beside each other on a page."""

_ROW, _AXIS, _RIGHT = 0.26, 0.42, 0.12
_LETTER = 0.062
_BELOW = 0.3
"""How far below its mean a seed stands, in rows: on the line of the interval it would be lost."""


def differences_figure(
    rows: Sequence[Row], metric: str, baseline: str, found: Mapping[str, Style]
) -> Figure | None:
    """Draw how far each arm is from the baseline: every seed, the mean and its interval.

    Args:
        rows: Of one problem.
        metric: What is compared.
        baseline: The arm at 0.
        found: The style of each arm.

    Returns:
        None if nothing can be compared.
    """
    finals = {row.arm: row.finals.get(metric, {}) for row in rows}
    compared = [row for row in rows if row.versus.get(metric) is not None]
    if not compared:
        return None
    with looking():
        figure, panel = _rows_of([row.arm for row in compared])
        panel.axvline(0.0, linewidth=0.8, color="#808080", zorder=1)
        for y, row in enumerate(compared):
            style, versus = found[row.arm], row.versus[metric]
            if versus is None:
                continue
            pairs = ((finals[row.arm].get(seed), v) for seed, v in finals[baseline].items())
            each = [a - b for a, b in pairs if a is not None and b is not None]
            below = [y + _BELOW] * len(each)
            panel.plot(each, below, "o", color=style.colour, alpha=0.5, markersize=2.4, mew=0)
            mean = versus.paired.difference
            _draw_interval(panel, y, mean.mean, (mean.low, mean.high), style)
        _aim(panel, compared, metric)
        panel.set_xlabel(f"{shown(metric)}: difference from {shown(baseline)}", labelpad=1.5)
    return figure


def _aim(panel: Axes, rows: Sequence[Row], metric: str) -> None:
    """Keep the interval of two seeds, which is very wide, from squeezing everything else."""
    reach = [0.0]
    for row in rows:
        versus = row.versus[metric]
        if versus is not None:
            mean, high = versus.paired.difference.mean, versus.paired.difference.high
            half = 0.0 if high is None else high - mean
            values = [v for v in row.finals.get(metric, {}).values() if v is not None]
            spread = max(values, default=0.0) - min(values, default=0.0)
            reach.append(abs(mean) + min(half, 4 * max(spread, abs(mean))))
    if (most := max(reach)) > 0 and isfinite(most):
        panel.set_xlim(-1.1 * most, 1.1 * most)


def spread_figure(rows: Sequence[Row], found: Mapping[str, Style]) -> Figure | None:
    """Draw how the clients of each arm fare: from the 10th to the 90th in 100, and the worst ones.

    Returns:
        None if the clients' own examples were not evaluated.
    """
    known = [(row.arm, row.spread) for row in rows if row.spread is not None]
    if not known:
        return None
    with looking():
        figure, panel = _rows_of([arm for arm, _ in known])
        for y, (arm, spread) in enumerate(known):
            style = found[arm]
            _draw_interval(panel, y, spread.p50, (spread.p10, spread.p90), style)
            panel.plot([spread.worst10], [y], "x", color=style.colour, markersize=4, mew=1.1)
        panel.set_xlabel("accuracy of a client", labelpad=1.5)
    return figure


def _rows_of(arms: Sequence[str]) -> tuple[Figure, Axes]:
    """Return axes with a line for each arm, the first one at the top."""
    labels = [shown(arm) for arm in arms]
    left = min(0.15 + _LETTER * max(map(len, labels)), 0.55 * WIDTH)
    longest = int((left - 0.1) / _LETTER)
    labels = [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in labels]
    height = _ROW * len(arms) + _AXIS + 0.08
    figure = empty_figure(WIDTH, height)
    panel = axes_at(figure, left, _AXIS, WIDTH - left - _RIGHT, _ROW * len(arms))
    panel.set_yticks(range(len(arms)), labels)
    panel.set_ylim(len(arms) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(pad=2)
    panel.grid(visible=False, axis="y")
    panel.spines["left"].set_visible(False)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    return figure, panel


def _draw_interval(
    panel: Axes, y: int, middle: float, ends: tuple[float | None, float | None], style: Style
) -> None:
    low, high = ends
    if low is not None and high is not None:
        panel.plot([low, high], [y, y], "-", color=style.colour, linewidth=1.4)
        panel.plot([low, high], [y, y], "|", color=style.colour, markersize=5, mew=1.1)
    panel.plot([middle], [y], style.marker, color=style.colour, markersize=5, mew=0)
