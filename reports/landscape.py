"""Draw a loss landscape: for each run its path, and beside or below it its last clients."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from roundel.core.files import write_atomic
from roundel.core.landscape import Landscape, Marks, Slice, View
from roundel.reports.look import COLUMN, INK, PAGE, axes_at, empty_figure, looking, save, shown

STEM = "landscape"
"""What the files are called."""

_COLOURS = "cividis_r"
"""Made for colour-blind readers; in grey it runs from light to dark, as the loss rises."""
_LEVELS = 14
_DARK = 0.55
"""From this share of the scale on, ink cannot be read on a colour."""
_BEYOND = 1.5
"""Colours end at so many times the highest loss of a model; beyond it is all one."""

_LEFT, _RIGHT, _BETWEEN = 0.46, 0.16, 0.5
_TITLE, _AXIS = 0.3, 0.34
_LEGEND, _SCALE = 0.36, 0.58
_BAR = 0.09
Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Mark:
    """How a model is marked: words of the legend, shape, size in points, and what lies above."""

    words: str
    shape: str
    size: float
    order: int


_START = _Mark("initial model", "s", 4.7, 5)
_ROUND = _Mark("after a round", "o", 3.0, 4)
_LAST = _Mark("last round", "*", 8.7, 7)
_CLIENT = _Mark("its clients", "^", 4.5, 6)
_MARKS = (_START, _ROUND, _LAST, _CLIENT)


def write_landscape(found: Landscape, directory: Path) -> None:
    """Write ``landscape.png``, ``landscape.pdf`` and ``landscape.npz``.

    Raises:
        RunDirectoryError: They cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **found.arrays())
    write_atomic(directory / f"{STEM}.npz", buffer.getbuffer())
    save(landscape_figure(found), directory / STEM)


def landscape_figure(found: Landscape) -> Figure:
    """Draw each run's slices with one scale: a column wide for one run, else a page wide."""
    with looking():
        views = [view for view in (found.paths, found.clients) if view is not None]
        several = len(found.paths.slices) > 1
        width = PAGE if several else COLUMN
        columns = len(views) if several else 1
        panel = (width - _RIGHT - columns * _LEFT - (columns - 1) * (_BETWEEN - _LEFT)) / columns
        heights = [panel * _ratio(view) for view in views]
        rows = [max(heights)] * len(found.paths.slices) if several else heights
        height = _LEGEND + sum(rows) + len(rows) * (_TITLE + _AXIS) + _SCALE
        figure = empty_figure(width, height)
        norm, levels = _scale(views)
        top = height - _LEGEND
        for row, row_height in enumerate(rows):
            bottom = top - _TITLE - row_height
            for column in range(columns):
                view = views[column if several else row]
                left = _LEFT + column * (panel + _BETWEEN)
                own = panel * _ratio(view)
                axes = axes_at(figure, left, bottom + row_height - own, panel, own)
                _draw(axes, view.slices[row if several else 0], view, norm, levels)
                axes.set_title(_title(found, view, row if several else 0), loc="left", pad=3)
            top = bottom - _AXIS
        _legend(figure)
        _colour_bar(figure, norm, f"loss on {found.examples:,} held-out examples")
    return figure


def _ratio(view: View) -> float:
    return float((view.y[-1] - view.y[0]) / (view.x[-1] - view.x[0]))


def _title(found: Landscape, view: View, place: int) -> str:
    label, share = found.paths.slices[place].label, f"{100 * view.share:.0f} %"
    if view is found.paths:
        return f"{shown(label)}\nglobal model; plane holds {share} of the paths' variance"
    last = view.slices[place].path.numbers[-1]
    return f"{shown(label)}\nround {last}; plane holds {share} of clients' variance"


def _scale(views: Sequence[View]) -> tuple[Normalize, Array]:
    """Return one scale for all views, and where contours lie on it."""
    models = np.concatenate([marks.losses for marks in _marks(views)])
    grids = np.concatenate([each.losses.ravel() for view in views for each in view.slices])
    everything = np.concatenate([models, grids])
    known = everything[np.isfinite(everything)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if np.isfinite(models).any():
        high = min(high, _BEYOND * models[np.isfinite(models)].max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    if low > 0:
        return LogNorm(low, high), np.geomspace(low, high, _LEVELS)
    return Normalize(low, high), np.linspace(low, high, _LEVELS)


def _marks(views: Sequence[View]) -> Iterator[Marks]:
    return chain.from_iterable((s.path, s.clients) for view in views for s in view.slices)


def _draw(axes: Axes, slice_: Slice, view: View, norm: Normalize, levels: Array) -> None:
    _draw_losses(axes, slice_, view, norm, levels)
    path, clients = slice_.path, slice_.clients
    axes.plot(
        path.places[:, 0],
        path.places[:, 1],
        color=INK,
        linewidth=0.9,
        path_effects=[patheffects.withStroke(linewidth=2.2, foreground="white")],
        zorder=3,
    )
    _put(axes, path.places, path.losses, norm, _ROUND)
    if path.numbers[0] == 0:
        _put(axes, path.places[:1], path.losses[:1], norm, _START)
    _put(axes, clients.places, clients.losses, norm, _CLIENT)
    _put(axes, path.places[-1:], path.losses[-1:], norm, _LAST)
    axes.set_xlim(view.x[0], view.x[-1])
    axes.set_ylim(view.y[0], view.y[-1])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("first direction (filter lengths)", labelpad=1)
    axes.set_ylabel("second", labelpad=1)


def _draw_losses(axes: Axes, slice_: Slice, view: View, norm: Normalize, levels: Array) -> None:
    low, high = float(levels[0]), float(levels[-1])
    losses = np.clip(np.nan_to_num(slice_.losses, nan=high, posinf=high, neginf=low), low, high)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.contourf(view.x, view.y, losses, levels=levels, norm=norm, cmap=_COLOURS)
    inner = levels[1:-1]
    lines = axes.contour(
        view.x, view.y, losses, levels=inner, colors=INK, linewidths=0.3, alpha=0.5
    )
    named = [level for level in inner.tolist()[::3] if losses.min() < level < losses.max()]
    axes.clabel(
        lines,
        named,
        fontsize=5.5,
        fmt="%.2g",
        inline_spacing=2,
        colors=["white" if norm(level) > _DARK else INK for level in named],
    )


def _put(axes: Axes, places: Array, losses: Array, norm: Normalize, mark: _Mark) -> None:
    """Draw models, each filled with the colour of its own loss."""
    highest = norm.vmax or 0.0
    axes.scatter(
        places[:, 0],
        places[:, 1],
        c=np.nan_to_num(losses, nan=highest, posinf=highest),
        s=mark.size**2,
        marker=mark.shape,
        zorder=mark.order,
        norm=norm,
        cmap=_COLOURS,
        edgecolors=INK,
        linewidths=0.6,
        path_effects=[patheffects.withStroke(linewidth=1.8, foreground="white")],
    )


def _legend(figure: Figure) -> None:
    handles = [
        Line2D(
            [],
            [],
            color="none",
            marker=mark.shape,
            markersize=mark.size,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=0.6,
        )
        for mark in _MARKS
    ]
    figure.legend(
        handles,
        [mark.words for mark in _MARKS],
        loc="upper center",
        ncols=len(_MARKS),
        handletextpad=0.1,
        columnspacing=0.8,
        borderaxespad=0.1,
        title="filled with the model's own loss",
        title_fontsize=6.5,
    )


def _colour_bar(figure: Figure, norm: Normalize, label: str) -> None:
    width, _ = figure.get_size_inches()
    axes = axes_at(figure, _LEFT, _SCALE - 0.14 - _BAR, width - _LEFT - _RIGHT, _BAR)
    bar = figure.colorbar(
        ScalarMappable(norm, _COLOURS), cax=axes, orientation="horizontal", label=label
    )
    if isinstance(norm, LogNorm):
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.xaxis.set_major_formatter("{x:g}")
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.6)
