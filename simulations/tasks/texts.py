"""Texts as numbers, one a character, and plays as what each speaker says.

A text is a *play* if at least half of its paragraphs, which empty lines separate, open with a line
``NAME:`` of at most 40 characters. Each such paragraph is a speech; a paragraph without a name goes
on with the speech before it. Any other text is one stream of characters.
"""

from importlib.resources import files
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import DataError

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""The characters that have a number of their own, from 1: line feed and printable ASCII."""
UNKNOWN = 0
"""The number of every other character."""
VOCABULARY = len(ALPHABET) + 1
"""How many numbers there are."""

MOST_BYTES = 1 << 24
LONGEST_NAME = 40

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_NUMBERS = np.full(128, UNKNOWN, dtype=np.int64)
_NUMBERS[[ord(character) for character in ALPHABET]] = np.arange(1, VOCABULARY)

Numbers = NDArray[np.int64]


def encode(text: str) -> Numbers:
    r"""Return the number of each character, the same on every node.

    >>> encode("\n ~é").tolist()
    [1, 2, 96, 0]
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    return np.where(points < len(_NUMBERS), _NUMBERS[points % len(_NUMBERS)], UNKNOWN)


def decode(numbers: Numbers) -> str:
    """Return the text of some numbers, with a replacement character for the unknown.

    >>> decode(encode("To be, or not"))
    'To be, or not'
    """
    return "".join((_REPLACEMENT + ALPHABET)[number] for number in numbers)


def read_text(path: Path | None) -> str:
    """Read a text in UTF-8, with line feeds at the ends of its lines.

    Args:
        path: The file; None for "As You Like It", which ships with Roundel.

    Raises:
        DataError: It cannot be read, is empty, larger than 16 MiB, or not UTF-8.
    """
    source = "as-you-like-it.txt" if path is None else str(path)
    place = files("roundel.simulations.tasks").joinpath("data", source) if path is None else path
    try:
        with place.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"the text {source} cannot be read ({error.strerror}); set task.path to a text file"
        ) from error
    if len(data) > MOST_BYTES:
        raise DataError(
            f"the text {source} is larger than {MOST_BYTES >> 20} MiB; give a part of it"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the text {source} is not UTF-8: byte {error.start} is {data[error.start]:#04x}; "
            "convert it"
        ) from error
    if not text.strip():
        raise DataError(f"the text {source} is empty; give one with characters to learn from")
    return "\n".join(text.splitlines())


def speeches(text: str) -> dict[str, list[str]] | None:
    r"""Return what each speaker of a play says, speakers and speeches in order of appearance.

    Args:
        text: With line feeds at the ends of its lines.

    Returns:
        None if the text is no play.

    >>> speeches("ROMEO:\nAy me!\n\nJULIET:\nO!\nRomeo.\n\nROMEO:\nShall I?")
    {'ROMEO': ['Ay me!', 'Shall I?'], 'JULIET': ['O!\nRomeo.']}
    """
    paragraphs = _paragraphs(text)
    names = [_name(lines[0]) for lines in paragraphs]
    if 2 * sum(name is not None for name in names) < len(names):
        return None
    said: dict[str, list[str]] = {}
    speaker: str | None = None
    for name, lines in zip(names, paragraphs, strict=True):
        if name is not None:
            speaker = name
            said.setdefault(name, []).append("\n".join(lines[1:]))
        elif speaker is not None:
            said[speaker][-1] += "\n" + "\n".join(lines)
    return said


def _paragraphs(text: str) -> list[list[str]]:
    groups = groupby(text.split("\n"), key=lambda line: bool(line.strip()))
    return [list(lines) for filled, lines in groups if filled]


def _name(line: str) -> str | None:
    line = line.strip()
    return line[:-1] if line.endswith(":") and 1 < len(line) <= LONGEST_NAME + 1 else None
