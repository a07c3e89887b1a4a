"""Figures with their intervals in few characters, no more digits than they deserve."""

from collections.abc import Iterable
from math import floor, isfinite, log10

from roundel.reports.statistics import Interval
from roundel.reports.text import NONE

_MOST = 4
_FEWEST_OF_SHARES = 3
_LARGE, _SMALLEST_P = 1e5, 1e-3


def places(intervals: Iterable[Interval | None]) -> int:
    """Return how many decimals a column needs: two digits of its narrowest interval.

    >>> places([Interval(mean=0.912, low=0.901, high=0.923, count=5)])
    3
    """
    known = [each for each in intervals if each is not None]
    halves = [half for each in known if (half := half_width(each)) is not None and half > 0]
    if not halves:
        return _MOST
    wanted = 1 - floor(log10(min(halves)))
    fewest = _FEWEST_OF_SHARES if all(abs(each.mean) <= 1 for each in known) else 0
    return max(fewest, min(_MOST, wanted))


def half_width(found: Interval) -> float | None:
    """Return how far an interval reaches to each side; None if there is none."""
    return None if found.high is None else found.high - found.mean


def decimal(value: float | None, digits: int, *, signed: bool = False) -> str:
    """Return a number with so many decimals, and a dash for none.

    >>> decimal(0.0312, 3, signed=True), decimal(-0.00001, 3), decimal(1e9, 3), decimal(None, 3)
    ('+0.031', '0.000', '1e+09', '-')
    """
    if value is None or not isfinite(value):
        return NONE
    if abs(value) >= _LARGE:
        return f"{value:+.3g}" if signed else f"{value:.3g}"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text if text.strip("+-0.") else f"{0:.{digits}f}"


def with_interval(found: Interval | None, digits: int, *, signed: bool = False) -> str:
    """Return a mean with its interval.

    >>> with_interval(Interval(mean=0.912, low=0.9012, high=0.9228, count=5), 3)
    '0.912 [0.901, 0.923]'
    >>> with_interval(Interval(mean=0.5, low=None, high=None, count=1), 3)
    '0.500'
    """
    if found is None:
        return NONE
    middle = decimal(found.mean, digits, signed=signed)
    if found.low is None or found.high is None:
        return middle
    low, high = (decimal(end, digits, signed=signed) for end in (found.low, found.high))
    return f"{middle} [{low}, {high}]"


def p_text(p: float | None) -> str:
    """Return a p-value, and a dash for none.

    >>> p_text(0.0042), p_text(0.41), p_text(1e-9), p_text(None)
    ('0.004', '0.410', '< 0.001', '-')
    """
    if p is None:
        return NONE
    return f"< {_SMALLEST_P}" if p < _SMALLEST_P else f"{p:.3f}"
