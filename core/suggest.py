"""Did you mean?"""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that helps with a mistyped word.

    >>> suggest("sdg", ["sgd", "adam"])
    "did you mean 'sgd'?"
    >>> suggest("x", ["sgd", "adam"])
    'choose from sgd, adam'
    """
    names = list(known)
    close = get_close_matches(word, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
