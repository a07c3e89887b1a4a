"""Text from the other side, as people are shown it and as records hold it."""

from collections.abc import Iterable

LINE = 1 << 12
"""How many characters of a one-line text are read; more is cut off."""

TRACEBACK = 1 << 18
"""The same for a traceback."""

NAME = 256
"""How many characters a name may have."""

_SHOWN = 100
"""How many of them are shown of one that has more."""


def printable(text: str, limit: int = LINE, *, layout: str = "") -> str:
    """Return text that a terminal and a log can be shown: nothing in it moves a cursor.

    Args:
        text: From the other side.
        limit: How many characters are read.
        layout: What is let through although it is not printable.

    >>> printable("gone" + chr(27) + "[2J", 6)
    'gone\N{REPLACEMENT CHARACTER}['
    """
    return "".join(
        c if c.isprintable() or c in layout else "\N{REPLACEMENT CHARACTER}" for c in text[:limit]
    )


def name_defect(names: Iterable[str]) -> str:
    r"""Say which name is none that records and sentences may hold; empty if all may be held.

    >>> name_defect(["loss", "f" + chr(27)])
    "'f\\x1b' is no name of printable characters, 256 at most"
    """
    for name in names:
        if len(name) > NAME or not name.isprintable():
            return f"{name!r:.{_SHOWN}} is no name of printable characters, {NAME} at most"
    return ""
