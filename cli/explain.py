"""Lay out what is known about a named constructor: a strategy or a task."""

import shutil
from collections.abc import Callable, Iterable
from textwrap import fill, indent
from typing import Any

from roundel.cli.docstrings import Knob, documented, knobs

INDENT = "    "


def entry(name: str, *texts: str) -> str:
    """Return a name, and below it each text as a paragraph; empty ones are left out."""
    return "\n".join([name, *(paragraph(text) for text in texts if text)])


def explanation(function: Callable[..., Any]) -> list[str]:
    """Return what a constructor's docstring says, its arguments left out."""
    said = documented(function)
    body = [_block(block) for block in said.body.split("\n\n")]
    told = (("needs", said.needs), ("verified", said.verified))
    labelled = [paragraph(f"{label}: {text}") for label, text in told if text]
    blocks = [paragraph(said.summary), *body, *labelled, paragraph(said.source)]
    return [block for block in blocks if block]


def table(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Return a line for each name and its text, which goes on below itself where it is long.

    Args:
        rows: Names and texts.
        width: Of the column of names.
    """
    before = INDENT + " " * (width + 2)
    return [
        f"{INDENT}{name.ljust(width)}  {paragraph(text, before).lstrip()}".rstrip()
        for name, text in rows
    ]


def knob_list(listed: Iterable[Knob], section: str) -> list[str]:
    """Return the lines about knobs, as they are written in a setting; none if there are none."""
    lines = []
    for knob in listed:
        lines.append(f"{INDENT}{section}.{knob.name} = {knob.default}  ({knob.kind})")
        if knob.text:
            lines.append(paragraph(knob.text, 2 * INDENT))
    return ["knobs", *lines] if lines else []


def knob_defaults(function: Callable[..., Any]) -> str:
    """Return a constructor's knobs and defaults in one line; empty if it has none."""
    listed = ", ".join(f"{knob.name} = {knob.default}" for knob in knobs(function))
    return f"knobs: {listed}" if listed else ""


def _block(text: str) -> str:
    """Lay out text of a docstring; what is indented there, such as formulas, stays as it is."""
    if any(line.startswith(" ") for line in text.splitlines()):
        return indent(text, INDENT)
    return paragraph(text)


def paragraph(text: str, before: str = INDENT) -> str:
    """Lay text out in lines as wide as the terminal, or 80 characters if there is none."""
    return fill(
        text,
        shutil.get_terminal_size().columns,
        initial_indent=before,
        subsequent_indent=before,
        break_long_words=False,
        break_on_hyphens=False,
    )
