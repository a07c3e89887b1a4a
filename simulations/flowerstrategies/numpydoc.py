"""Docstrings in NumPy's form, such as Flower's, in the form that is read here."""

import re
from collections.abc import Iterator

_ENTRY = re.compile(r"^(\w+)\s*:")
_PAPER = re.compile(r"^(Implementation based on|Implemented based on:|Paper:)\s*(\S+?)\.?$")


def in_googles_form(text: str) -> str:
    r"""Return a docstring with its parameters under ``Args:``, and the paper under ``Source:``.

    Args:
        text: A docstring without indentation; one that has another form stays as it is.

    >>> print(in_googles_form("Mean.\n\nParameters\n----------\nbeta : float\n    A share."))
    Mean.
    <BLANKLINE>
    Args:
        beta: A share.
    """
    head, found, rest = text.partition("\nParameters\n----------\n")
    if not found:
        return text
    rest = re.split(r"\n\w+\n-{3,}\n", rest)[0]
    body: list[str] = []
    papers: list[str] = []
    for line in head.rstrip().splitlines():
        paper = _PAPER.match(line.strip())
        (papers if paper else body).append(paper[2] if paper else line)
    blocks = ["\n".join(body).rstrip(), "\n".join(["Args:", *_entries(rest)])]
    blocks += ["\n".join(["Source:", *(f"    {paper}" for paper in papers)])] if papers else []
    return "\n\n".join(blocks)


def _entries(text: str) -> Iterator[str]:
    """Yield a line for each parameter."""
    name, said = "", list[str]()
    for line in [*text.splitlines(), "end :"]:
        if (entry := _ENTRY.match(line)) is None:
            said.append(line.strip())
            continue
        if name:
            yield f"    {name}: {' '.join(filter(None, said))}"
        name, said = entry[1], []
