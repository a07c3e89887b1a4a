"""A picture of a division of examples over clients for a terminal."""

from math import ceil
from textwrap import wrap

from roundel.simulations.partitions.report import PartitionReport
from roundel.simulations.partitions.view import OTHERS, View
from roundel.simulations.partitions.words import statistics, title

CLIENTS = 10
"""How many clients are shown."""

_LEVELS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEAST_BAR, _LONGEST_BAR = 6, 24
_MOST_LINES_OF_FIGURES = 4


def picture_text(report: PartitionReport, width: int) -> str:
    """Draw ten clients between the smallest and the largest: their sizes and their label mixes.

    Args:
        report: What to draw.
        width: The characters of a line, at least 30.

    Returns:
        At most 16 lines, without a newline at the end.
    """
    figures = wrap(
        " ".join(statistics(report)), width, max_lines=_MOST_LINES_OF_FIGURES, placeholder=" …"
    )
    table = [] if report.sampled == 0 else _table(report.view.thin(CLIENTS), width)
    lines = [title(report), *table, *figures]
    return "\n".join(line[:width].rstrip() for line in lines)


def _table(view: View, width: int) -> list[str]:
    left = f"{'client':>7} {'examples':>9} "
    room = width - len(left) - 1
    names = ["+" if name == OTHERS else name for name in view.classes]
    column = max([1, *map(len, names)]) + 1
    head = "".join(f"{name:>{column}}" for name in names)
    if len(head) + _LEAST_BAR > room:  # too many to be named: as many as fit, without a gap
        column, fitting = 1, names[: max(0, room - _LEAST_BAR)]
        head = f"{names[0]} to {names[len(fitting) - 1]}"
        names = fitting
    bar = min(_LONGEST_BAR, room - len(names) * column)
    sizes = view.sizes.sum(axis=1)
    lines = [f"{left}{'class' if names else '':>{bar}} {head}"]
    for client, size, mix in zip(view.clients, sizes, view.mix.tolist(), strict=True):
        marks = "".join(f"{_LEVELS[ceil(s * 8)]:>{column}}" for s in mix[: len(names)])
        share = size / max(1, sizes.max())
        lines.append(f"{client:>7} {size:>9,} {_bar(share, bar)} {marks}")
    return lines


def _bar(share: float, width: int) -> str:
    full, rest = divmod(ceil(share * width * 8), 8)
    return f"{'█' * full}{_EIGHTHS[rest].strip()}".ljust(width)
