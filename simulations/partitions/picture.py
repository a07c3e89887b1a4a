"""A picture of a division of examples over clients, as one SVG that needs nothing else.

Two panels share their axis of clients: how many examples each has, by part, and which share of them
each class has. Colours follow the reader's choice of a light or a dark page.
"""

from collections.abc import Iterable, Iterator
from html import escape
from math import ceil, floor, log10

import numpy as np
from numpy.typing import NDArray

from roundel.simulations.partitions.report import PartitionReport
from roundel.simulations.partitions.view import View
from roundel.simulations.partitions.words import statistics, title

WIDTH = 900
_LEFT, _RIGHT = 64, 24
_PLOT = WIDTH - _LEFT - _RIGHT
_TOP = 84
_BARS = 130
_GAP = 44
_ROWS = 400
"""The height that rows share, within these bounds of one row."""
_LEAST_ROW, _MOST_ROW = 5, 17
_LINE = 19

_LEAST_LABELLED_ROW = 14

_LEVELS = 16
"""Shades of the label mix: the square root of the share, so that small ones can be seen."""

_STYLE = """
text{font:13px system-ui,sans-serif;fill:#24292f}
.title{font-size:17px;font-weight:600}.soft{fill:#59636e;font-size:12px}
.page{fill:#ffffff}.grid{stroke:#d1d9e0;stroke-width:1}.field{fill:#f3f5f7}
.train,.mix{fill:#0b62b5}.validation{fill:#e0912f}.test{fill:#7fb6ec}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.soft{fill:#9ba6b2}.page{fill:#0d1117}.grid{stroke:#30363d}.field{fill:#171d25}
.train,.mix{fill:#58a6ff}.validation{fill:#d9913a}.test{fill:#274e7d}}
"""


def picture_svg(report: PartitionReport) -> str:
    """Draw sizes and label mixes of up to 100 clients.

    Args:
        report: What to draw.

    Returns:
        An SVG document.
    """
    view = report.view
    mix_top = _TOP + _BARS + _GAP
    mix_height = _row_height(view) * len(view.classes)
    axis = mix_top + mix_height if view.classes else _TOP + _BARS
    caption = statistics(report)
    first_line = axis + 58
    height = first_line + _LINE * len(caption) - 2
    body = [
        f'<text class="title" x="{_LEFT}" y="32">{escape(title(report))}</text>',
        *_legend(report),
        *_bars(view),
        *(_mix(view, mix_top) if view.classes else ()),
        *_axis_of_clients(report, axis),
        *(
            f'<text x="{_LEFT}" y="{first_line + _LINE * i}">{escape(line)}</text>'
            for i, line in enumerate(caption)
        ),
    ]
    return _document(height, title(report), " ".join(caption), body)


def _document(height: int, name: str, summary: str, body: Iterable[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(name)}</title><desc>{escape(summary)}</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        *body,
        "</svg>\n",
    ]
    return "\n".join(lines)


def _legend(report: PartitionReport) -> Iterator[str]:
    yield f'<text class="soft" x="{_LEFT}" y="{_TOP - 18}">examples a client</text>'
    x = WIDTH - _RIGHT
    for name, count in reversed(list(report.parts.items())):
        if count > 0:
            words = f"{count:,} {name}"
            x -= round(6.6 * len(words))
            yield f'<text class="soft" x="{x}" y="{_TOP - 18}">{words}</text>'
            yield f'<rect class="{name}" x="{x - 16}" y="{_TOP - 28}" width="11" height="11"/>'
            x -= 34


def _bars(view: View) -> Iterator[str]:
    largest = max(1, int(view.sizes.sum(axis=1).max(initial=0)))
    every = round_step(largest, 5)
    top = -(-largest // every) * every
    scale = _BARS / top
    for tick in range(0, top + 1, every):
        y = _TOP + _BARS - tick * scale
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}h{_PLOT}"/>'
        yield _beside(y, f"{tick:,}")
    base = np.zeros(len(view.sizes))
    step = _PLOT / max(1, len(view.sizes))
    for name, counts in zip(("train", "validation", "test"), view.sizes.T, strict=True):
        heights = counts * scale
        path = "".join(
            f"M{i + 0.08:.2f} {b:.1f}h.84v{h:.1f}h-.84z"
            for i, (b, h) in enumerate(zip(base.tolist(), heights.tolist(), strict=True))
            if h > 0
        )
        yield (
            f'<path class="{name}" transform="translate({_LEFT} {_TOP + _BARS}) '
            f'scale({step:.4f} -1)" d="{path}"/>'
        )
        base = base + heights


def _mix(view: View, top: int) -> Iterator[str]:
    row, step = _row_height(view), _PLOT / max(1, len(view.clients))
    yield (
        f'<text class="soft" x="{_LEFT}" y="{top - 10}">'
        "share of each class in a client's examples</text>"
    )
    yield from _scale(top)
    height = row * len(view.classes)
    yield f'<rect class="field" x="{_LEFT}" y="{top}" width="{_PLOT}" height="{height}"/>'
    every = ceil(_LEAST_LABELLED_ROW / row)
    for i, name in list(enumerate(view.classes))[::every]:
        yield _beside(top + (i + 0.5) * row, name)
    yield f'<g transform="translate({_LEFT} {top}) scale({step:.4f} {row})">'
    for level, cells in _by_level(view.mix):
        path = "".join(f"M{i} {j}h.94v.94h-.94z" for i, j in cells.tolist())
        yield f'<path class="mix" fill-opacity="{level / _LEVELS:.3f}" d="{path}"/>'
    yield "</g>"


def _beside(y: float, words: str) -> str:
    """Write words to the left of the plot, centred at a height."""
    return (
        f'<text class="soft" text-anchor="end" x="{_LEFT - 8}" y="{y + 4:.1f}">'
        f"{escape(words)}</text>"
    )


def _row_height(view: View) -> int:
    return max(_LEAST_ROW, min(_MOST_ROW, _ROWS // max(1, len(view.classes))))


def _by_level(mix: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each shade with the places, client and class, that have it."""
    levels = np.ceil(np.sqrt(mix) * _LEVELS - 1e-9).astype(int)
    for level in range(1, _LEVELS + 1):
        cells = np.argwhere(levels == level)
        if len(cells) > 0:
            yield level, cells


def _scale(top: int) -> Iterator[str]:
    """Explain the shades."""
    x = WIDTH - _RIGHT
    for percent in (100, 50, 25, 10, 2):
        x -= 40
        opacity = ceil((percent / 100) ** 0.5 * _LEVELS) / _LEVELS
        yield f'<rect class="field" x="{x - 15}" y="{top - 20}" width="11" height="11"/>'
        yield (
            f'<rect class="mix" fill-opacity="{opacity:.3f}" x="{x - 15}" y="{top - 20}" '
            'width="11" height="11"/>'
        )
        yield f'<text class="soft" x="{x}" y="{top - 10}">{percent}%</text>'
        x -= 16


def _axis_of_clients(report: PartitionReport, y: int) -> Iterator[str]:
    view = report.view
    count = len(view.clients)
    step = _PLOT / max(1, count)
    middle = '<text class="soft" text-anchor="middle"'
    if view.chosen:
        of = report.sampled or report.clients
        words = f"{count} of {of:,} clients, from the smallest to the largest"
        yield f'{middle} x="{_LEFT + _PLOT / 2}" y="{y + 20}">{words}</text>'
        return
    for i in range(0, count, round_step(count, 10)):
        yield f'{middle} x="{_LEFT + (i + 0.5) * step:.1f}" y="{y + 17}">{view.clients[i]}</text>'
    yield f'{middle} x="{_LEFT + _PLOT / 2}" y="{y + 33}">client</text>'


def round_step(span: int, steps: int) -> int:
    """Return the least of 1, 2, 5, 10, 20, 50, ... that covers a span in so many steps.

    >>> [round_step(span, 5) for span in (0, 5, 6, 26, 1_000_000)]
    [1, 1, 2, 10, 200000]
    """
    least = span / steps
    unit = int(10 ** floor(log10(max(least, 1))))
    return next(unit * m for m in (1, 2, 5, 10) if unit * m >= least)
