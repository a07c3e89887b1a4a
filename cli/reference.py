"""The reference of all strategies as a page in Markdown: what their docstrings say."""

from collections.abc import Callable
from textwrap import dedent
from typing import Any

from roundel.cli.docstrings import Documented, Knob, documented, knobs
from roundel.strategies.registry import FAMILIES

_INTRODUCTION = """# All strategies

What `roundel strategies NAME` says, for each of them; this page is the output of
`roundel strategies --markdown`. How strategies are chosen, composed and written:
[strategies.md](strategies.md).
"""


def reference() -> str:
    """Return the page."""
    pieces = [_INTRODUCTION]
    for family, members in FAMILIES.items():
        pieces.append(f"## {family[0].upper()}{family[1:]}\n")
        pieces += [_entry(make) for make in members]
    return "\n".join(pieces)


def _entry(make: Callable[..., Any]) -> str:
    said = documented(make)
    blocks = [
        f"### `{make.__name__}`",
        said.summary,
        _body(said),
        f"*Needs:* {said.needs}" if said.needs else "",
        f"*Verified:* {said.verified}" if said.verified else "",
        f"*Source:* {said.source}" if said.source else "",
        _table(knobs(make)),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _body(said: Documented) -> str:
    """Return what follows the summary; formulas, which are indented there, become code."""
    return "\n\n".join(
        f"```\n{dedent(block)}\n```" if block.startswith(" ") else block
        for block in said.body.strip("\n").split("\n\n")
    )


def _table(listed: list[Knob]) -> str:
    if not listed:
        return ""
    rows = [
        f"| `{knob.name}` | {_default(knob)} | {_cell(knob.kind)} | {_cell(knob.text)} |"
        for knob in listed
    ]
    return "\n".join(["| knob | default | may be | meaning |", "|---|---|---|---|", *rows])


def _default(knob: Knob) -> str:
    return knob.default if " " in knob.default or knob.default == "unset" else f"`{knob.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
