"""What a function's docstring and signature say about it: its summary, knobs and source."""

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from roundel.reports.text import literal

_HEADING = re.compile(
    r"^(Args|Returns|Raises|Needs|Verified|Source|Sources|Example|Examples|Note|Notes):\s*$"
)
_WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "",
}
UNSET = "unset"


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A docstring in Google's form, taken apart.

    Attributes:
        summary: Its first paragraph, in one line.
        body: What follows up to the first section, as it is laid out.
        args: Argument to what is said about it, in one line.
        needs: The section ``Needs``, in one line; empty without one.
        verified: The section ``Verified``, likewise.
        source: The section ``Source``, likewise.
    """

    summary: str
    body: str
    args: Mapping[str, str]
    needs: str
    verified: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A keyword argument that an experiment file can set.

    Attributes:
        name: Its name.
        kind: What it may be, in words.
        default: Its default as the file would write it.
        text: What the docstring says about it.
    """

    name: str
    kind: str
    default: str
    text: str


def documented(function: Callable[..., Any]) -> Documented:
    """Take a function's docstring apart."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        heading = _HEADING.match(line)
        if heading:
            current = heading[1]
            sections[current] = []
        else:
            sections[current].append(line)
    summary, _, body = "\n".join(sections[""]).strip().partition("\n\n")
    return Documented(
        summary=_plain(summary),
        body=body.replace("``", "`").rstrip(),
        args=_entries(sections.get("Args", [])),
        needs=_plain("\n".join(sections.get("Needs", []))),
        verified=_plain("\n".join(sections.get("Verified", []))),
        source=_plain("\n".join(sections.get("Source", []))),
    )


def knobs(function: Callable[..., Any]) -> list[Knob]:
    """Return a function's keyword arguments, in its order."""
    said = documented(function).args
    hints = _hints(function)
    return [
        Knob(
            name=name,
            kind=in_words(hints.get(name, Any)),
            default=_default(parameter),
            text=said.get(name, ""),
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def in_words(hint: Any) -> str:  # noqa: ANN401 - any annotation
    """Say what values an annotation allows.

    >>> in_words(int | None)
    'a whole number'
    >>> in_words(Literal["group", "batch"])
    '"group" or "batch"'
    >>> in_words(list[float])
    'a list, each a number'
    """
    if isinstance(hint, type) and hint in _WORDS:
        return _WORDS[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return in_words(parts[0])
    if origin is Literal:
        return " or ".join(literal(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(in_words, parts))))
    if inspect.isclass(origin) and issubclass(origin, Sequence) and parts:
        return f"a list, each {in_words(parts[0])}"
    return getattr(hint, "__name__", str(hint)) if hint is not Any else "anything"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:
        return {}


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "none, it must be set"
    if parameter.default is None:
        return UNSET
    try:
        return literal(parameter.default)
    except TypeError:
        return str(parameter.default)


def _entries(lines: Sequence[str]) -> dict[str, str]:
    """Read the entries of a section: an indented name, a colon, and text that may go on below."""
    entries: dict[str, str] = {}
    name = ""
    for line in lines:
        entry = re.match(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?: ?(.*)$", line)
        if entry:
            name = entry[1]
            entries[name] = entry[2]
        elif name and line.strip():
            entries[name] += f" {line.strip()}"
    return {name: _plain(text) for name, text in entries.items()}


def _plain(text: str) -> str:
    """Return text in one line, literals in single backquotes."""
    return " ".join(text.split()).replace("``", "`")
