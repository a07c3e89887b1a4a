"""A table of a page as plain values: what each cell says, and by which number it sorts."""

from dataclasses import dataclass

from roundel.reports.interval_text import with_interval
from roundel.reports.listing import number
from roundel.reports.statistics import Interval
from roundel.reports.summary import byte_count
from roundel.reports.text import NONE, figure, short


@dataclass(frozen=True, kw_only=True)
class Head:
    """The heading of a column.

    Attributes:
        text: What it says.
        number: Whether the column holds numbers.
        hint: What the heading means, for those who rest on it.
    """

    text: str
    number: bool = True
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A cell.

    Attributes:
        text: What it says.
        small: What stands below it in small letters.
        value: The number that it sorts by, if it has one.
        strong: Whether it stands out.
    """

    text: str
    small: str = ""
    value: float | None = None
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row; the first one is set off."""

    cells: tuple[Value, ...]
    first: bool = False


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table."""

    caption: str
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]


def figure_value(value: object) -> Value:
    """Return the cell of a metric, with all decimals, so that those of a column line up."""
    return Value(text=figure(value), value=number(value))


def number_value(value: object) -> Value:
    """Return the cell of any other number, or of none."""
    return Value(text=short(value), value=number(value))


def bytes_value(value: float | None) -> Value:
    """Return the cell of a number of bytes, or of none."""
    return Value(text=NONE if value is None else byte_count(round(value)), value=value)


def seconds_value(value: float | None) -> Value:
    """Return the cell of a time, or of none."""
    return Value(text=NONE if value is None else f"{value:.3g}", value=value)


def interval_value(
    found: Interval | None, digits: int, *, signed: bool = False, strong: bool = False
) -> Value:
    """Return the cell of a mean with its interval below.

    Args:
        found: Both; None for a dash.
        digits: How many decimals.
        signed: Whether a plus is written.
        strong: Whether it stands out.
    """
    if found is None:
        return Value(text=NONE)
    mean, _, ends = with_interval(found, digits, signed=signed).partition(" ")
    return Value(text=mean, small=ends, value=found.mean, strong=strong)
