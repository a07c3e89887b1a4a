"""Plain text for tables and curves: the same on a terminal, in a pipe and in a file."""

import json
from collections.abc import Collection, Sequence
from math import fsum, isfinite

BLOCKS = "▁▂▃▄▅▆▇█"
NONE = "-"
_SMALL, _LARGE = 1e-4, 1e5


def figure(value: object) -> str:
    """Return a number in few characters, and a dash for what is none.

    >>> figure(0.94368), figure(12), figure(1.5e-7), figure(None)
    ('0.9437', '12', '1.5e-07', '-')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else str(value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if value == 0 or _SMALL <= abs(value) < _LARGE else f"{value:.3g}"


def short(value: object) -> str:
    """Return a number without the zeros at its end, and a dash for what is none.

    >>> short(1442.0), short(4.9), short(0.57232), short(None)
    ('1442', '4.9', '0.5723', '-')
    """
    text = figure(value)
    return text.rstrip("0").rstrip(".") if isinstance(value, float) and "e" not in text else text


def literal(value: object) -> str:
    """Return a value as an experiment file writes it, and a dash for none.

    >>> literal(0.05), literal("fedavg"), literal(True), literal(None)
    ('0.05', '"fedavg"', 'true', '-')
    """
    return NONE if value is None else json.dumps(value, ensure_ascii=False)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> list[str]:
    """Return the lines of a table, columns two spaces apart.

    Args:
        head: The heading of each column.
        rows: The cells of each row.
        right: The headings of columns that end flush, as numbers do.

    >>> table(["run", "loss"], [["a", "1.25"], ["long", "0.5"]], right=["loss"])
    ['run   loss', 'a     1.25', 'long   0.5']
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    flush = [heading in right for heading in head]
    return [
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(line, widths, flush, strict=True)
        ).rstrip()
        for line in lines
    ]


def sparkline(values: Sequence[float | None], width: int = 60) -> str:
    """Return a curve in one line of blocks, from the lowest value to the highest.

    Args:
        values: In order; what is None or not finite leaves a gap.
        width: How many characters at most; neighbours share one if there are more values.

    >>> sparkline([0.0, 0.5, None, 1.0])
    '▁▅ █'
    """
    cells = [_mean(values[start:stop]) for start, stop in _cells(len(values), width)]
    known = [cell for cell in cells if cell is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return "".join(" " if cell is None else _block(cell, low, high) for cell in cells)


def _cells(count: int, width: int) -> list[tuple[int, int]]:
    """Divide so many values over at most so many cells, as evenly as whole numbers can."""
    cells = min(count, width)
    return [(i * count // cells, (i + 1) * count // cells) for i in range(cells)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and isfinite(value)]
    return fsum(known) / len(known) if known else None


def _block(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)]
