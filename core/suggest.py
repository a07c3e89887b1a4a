"""Did you mean?"""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a sentence that helps with a mistyped word.

    Args:
        word: What was typed.
        known: What there is.
        otherwise: What to say where nothing is similar, if there is too much to list.

    >>> suggest("sdg", ["sgd", "adam"])
    "did you mean 'sgd'?"
    >>> suggest("x", ["sgd", "adam"])
    'choose from sgd, adam'
    """
    names = list(known)
    close = get_close_matches(word, names, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return otherwise or f"choose from {', '.join(names)}"
