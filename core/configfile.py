"""Read and write experiment files; say in one sentence what is wrong with one."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from roundel.core.config import Experiment
from roundel.core.errors import ConfigError
from roundel.core.suggest import suggest


def load_experiment(path: Path | None = None, settings: Sequence[str] = ()) -> Experiment:
    """Read an experiment: the defaults, then the file, then ``section.key=value`` settings.

    Args:
        path: A TOML file; None for the defaults alone.
        settings: Overrides as given to ``-s``.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong.
    """
    return parse_experiment(read_tree(path, settings))


def read_tree(path: Path | None = None, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Read the tree of a TOML file with overrides; its keys are not checked.

    Args:
        path: A TOML file; None for an empty tree.
        settings: Overrides as given to ``-s``.

    Raises:
        ConfigError: The file cannot be read, or an override is not a setting.
    """
    tree = _read_toml(path) if path is not None else {}
    for setting in settings:
        _override(tree, setting)
    return tree


def parse_experiment(tree: Mapping[str, Any]) -> Experiment:
    """Check a tree of plain values, as TOML or JSON gives it.

    Raises:
        ConfigError: A key or value is wrong; the sentence names it.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error


def dump_experiment(experiment: Experiment) -> str:
    """Return the experiment as TOML that reads back to an equal one."""
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        remedy = "; settings are written with -s" if "=" in path.name else ""
        raise ConfigError(f"cannot read the experiment file {path}: {reason}{remedy}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error


def _override(tree: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"-s {setting!r} is not a setting; write -s section.key=value")
    *sections, last = path
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"-s {setting!r}: {section!r} is a value and has no keys of its own")
    node[last] = parse_value(text.strip())


def parse_value(text: str) -> object:
    """Read a value as TOML does; anything that is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _sentence(error: ValidationError) -> str:
    """Say the first problem, with the key, the value and the remedy."""
    problem = error.errors()[0]
    path = [str(step) for step in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a key; {_suggest_key(path)}"
    if problem["type"] == "value_error":
        return str(problem.get("ctx", {})["error"])
    if problem["type"] == "model_type":
        first = next(iter(_section(path).model_fields))
        return (
            f"{key} = {problem['input']!r} is not allowed: set a key of it, such as {key}.{first}"
        )
    reasons = dict.fromkeys(
        other["msg"].removeprefix("Input ") for other in _alternatives(error, problem)
    )
    key = ".".join(_known_prefix(path))
    return f"{key} = {problem['input']!r} is not allowed: it {' or it '.join(reasons)}"


def _suggest_key(path: Sequence[str]) -> str:
    """Point to a similar key of the same section, or to the same key of another one."""
    *sections, last = path
    here = list(_section(sections).model_fields)
    elsewhere = [
        f"{name}.{last}"
        for name in Experiment.model_fields
        if (section := _section([name])) is not Experiment and last in section.model_fields
    ]
    hint = suggest(last, here)
    if "choose" not in hint:
        return hint
    if elsewhere:
        return f"did you mean {elsewhere[0]!r}?"
    return hint if sections else f"{hint}; a strategy's knobs are set as in strategy.mu=0.1"


def _alternatives(error: ValidationError, first: ErrorDetails) -> list[ErrorDetails]:
    """Return every complaint about the same value: one for each type it could have had."""
    known = _known_prefix([str(step) for step in first["loc"]])
    return [
        other
        for other in error.errors()
        if _known_prefix([str(step) for step in other["loc"]]) == known
    ]


def _known_prefix(path: Sequence[str]) -> list[str]:
    """Return the steps that are keys; what follows names an alternative type."""
    node: type[BaseModel] = Experiment
    known = []
    for step in path:
        if step not in node.model_fields:
            break
        known.append(step)
        kind = node.model_fields[step].annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            break
        node = kind
    return known or list(path)


def _section(path: Sequence[str]) -> type[BaseModel]:
    node: type[BaseModel] = Experiment
    for step in path:
        kind = node.model_fields[step].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            node = kind
    return node
