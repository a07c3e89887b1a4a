"""Text from the other side, as people are shown it and as records hold it."""

LINE = 1 << 12
"""How many characters of a one-line text are read; more is cut off."""

TRACEBACK = 1 << 18
"""The same for a traceback."""


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
