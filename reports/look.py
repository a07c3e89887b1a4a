"""How figures look: for a column of a paper, in colour and in grey, on a light and on a dark page.

Nothing here touches matplotlib's global settings, not even those of the user: `looking` brings
defaults of our own and puts back what was there. Files have no date in them, so the same figures
make the same bytes.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from roundel.core.files import write_atomic

COLUMN = 3.4
"""The width of a paper's column, in inches; a figure that wide is to be read unscaled."""

PAGE = 7.0
"""The width of a page's text, in inches."""

INK = "#1b1f24"
"""Text and axes, and the first line; on a dark page it turns light."""

_DPI = 200
_CHARACTER = 0.058
"""Inches that a character of a legend takes, at most."""
_HANDLE = 0.42
LEGEND_LINE = 0.15
"""Inches that a line of a legend takes."""
_LONGEST = 48
"""Characters of a label."""

_COLOURS = (INK, "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind readers tell apart, without its yellow: on paper
that cannot be seen."""
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", ">")

_LOOK: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "text.usetex": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse what matplotlib embeds by itself
    "svg.fonttype": "none",  # the reader's own letters: they can be searched and read aloud
    "svg.hashsalt": "roundel",
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a line looks: any one of the three tells it from the others.

    Attributes:
        colour: As ``#rrggbb``.
        dash: As matplotlib's line style.
        marker: As matplotlib's.
        place: Its number, by which markers of different lines keep out of each other's way.
    """

    colour: str
    dash: Any
    marker: str
    place: int


@contextmanager
def looking() -> Iterator[None]:
    """Draw with our own settings within the block, whatever the user's are."""
    with matplotlib.style.context(["default", dict(_LOOK)]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Return a style for each label; the first one, which is black, should be the baseline."""
    return {
        label: Style(
            colour=_COLOURS[i % len(_COLOURS)],
            dash=_DASHES[i % len(_DASHES)],
            marker=_MARKERS[i % len(_MARKERS)],
            place=i,
        )
        for i, label in enumerate(dict.fromkeys(labels))
    }


def shown(label: str) -> str:
    """Return a label in one line that is not too long.

    >>> shown("fedprox  mu=0.1")
    'fedprox mu=0.1'
    """
    words = " ".join(label.split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def empty_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that no window knows of."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes whose frame lies so many inches from the figure's lower left corner."""
    full_width, full_height = figure.get_size_inches()
    return figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height)
    )


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many labels stand beside each other: as many as fit, in lines of equal length.

    Args:
        labels: What the legend says.
        width: How much room it has, in inches.
    """
    longest = max(len(shown(label)) for label in labels)
    fit = max(1, int(width / (_HANDLE + _CHARACTER * longest)))
    lines = -(-len(labels) // fit)
    return -(-len(labels) // lines)


def legend_height(labels: Sequence[str], width: float) -> float:
    """Return how high the legend becomes, in inches; 0 for one label, which needs none."""
    if len(labels) < 2:  # noqa: PLR2004 - a line alone cannot be mistaken
        return 0.0
    return LEGEND_LINE * -(-len(labels) // legend_columns(labels, width)) + 0.06


def add_legend(figure: Figure, found: Mapping[str, Style], left: float) -> None:
    """Write what the lines are at the top of a figure, beginning so many inches from its left."""
    if len(found) < 2:  # noqa: PLR2004
        return
    width, _ = (float(side) for side in figure.get_size_inches())
    handles = [line_of(style) for style in found.values()]
    figure.legend(
        handles=handles,
        # What begins with an underscore is left out of a legend.
        labels=[f" {text}" if text.startswith("_") else text for text in map(shown, found)],
        loc="upper left",
        bbox_to_anchor=(left / width, 1.0),
        borderaxespad=0.1,
        borderpad=0.1,
        handlelength=2.6,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.25,
        ncols=legend_columns(list(found), width - left),
    )


def line_of(style: Style) -> Line2D:
    """Return a line as the legend shows it."""
    return Line2D([], [], color=style.colour, linestyle=style.dash, marker=style.marker)


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as ``.png`` and ``.pdf``.

    Raises:
        RunDirectoryError: They cannot be written.
    """
    nothing = {"CreationDate": None, "Creator": None, "Producer": None}
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", nothing)):
        buffer = io.BytesIO()
        with looking():
            figure.savefig(buffer, format=suffix[1:], dpi=_DPI, metadata=metadata)
        write_atomic(stem.with_name(stem.name + suffix), buffer.getvalue())


def svg(figure: Figure, title: str) -> str:
    """Return a figure as a picture for a page, whose ink follows the reader's light or dark."""
    buffer = io.StringIO()
    with looking():
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", facecolor="none", metadata=nothing)
    _, start, rest = buffer.getvalue().partition("<svg ")
    opening, _, body = rest.partition(">")
    body = re.sub(re.escape(INK), "currentColor", body, flags=re.IGNORECASE)
    return f"{start}{opening}><title>{_escaped(title)}</title><style>{_ON_A_PAGE}</style>{body}"


_ON_A_PAGE = (
    f"svg{{color:{INK}}}@media screen and (prefers-color-scheme:dark){{svg{{color:#e6edf3}}}}"
)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
