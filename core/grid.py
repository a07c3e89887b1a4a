"""Lists of values, as a grid has them: read and checked."""

import tomllib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roundel.core.comparison import leaves, put
from roundel.core.config import Experiment
from roundel.core.configfile import parse_value
from roundel.core.errors import ConfigError

SEEDS = 3
"""How many, unless it is said."""

_HOW = frozenset({"strategy", "client", "topology", "engine"})
"""Sections whose keys make arms in a grid; all others make problems."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid as it is written.

    Attributes:
        how: Dotted keys and values that make arms.
        what: The same of problems.
        of: By the title of a strategy, keys and values for it alone.
        seeds: As written.
    """

    how: Mapping[str, tuple[Any, ...]]
    what: Mapping[str, tuple[Any, ...]]
    of: Mapping[str, Mapping[str, tuple[Any, ...]]]
    seeds: Any


def read_grid(table: dict[str, Any], said: Sequence[str]) -> Grid:
    """Read the table of a grid, and the lists that a command line adds.

    Args:
        table: It becomes empty of its seeds.
        said: Such as ``"partition.alpha=0.1,1.0"``.

    Raises:
        ConfigError: Something is no list, or an empty one.
    """
    for text in said:
        key, equals, values = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--grid {text!r} is no list of values; write --grid partition.alpha=0.1,1.0"
            )
        put_list(table, key.strip(), parse_values(values))
    seeds = None if isinstance(table.get("seeds"), dict) else table.pop("seeds", None)
    sections = {key for key, value in table.items() if isinstance(value, dict)}
    alone = sections - Experiment.model_fields.keys()
    lists = _lists({key: value for key, value in table.items() if key not in alone})
    for key in ("seed", "name"):
        if key in lists:
            raise ConfigError(
                f"grid.{key} = {list(lists[key])} is not allowed: "
                + ("write seeds = [...]" if key == "seed" else "a comparison has one name")
            )
    return Grid(
        how={key: values for key, values in lists.items() if key.split(".")[0] in _HOW},
        what={key: values for key, values in lists.items() if key.split(".")[0] not in _HOW},
        of={title: _own_lists(title, table[title]) for title in alone},
        seeds=seeds,
    )


def put_list(table: dict[str, Any], key: str, values: Sequence[Any]) -> None:
    """Set a list of a grid's table; ``seeds.data`` stays as it is, beside the grid's ``seeds``."""
    if key.startswith("seeds."):
        table[key] = list(values)
    else:
        put(table, key, list(values))


def _own_lists(title: str, table: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the lists of one strategy: a key without a section is a knob of it."""
    found = {}
    for key, values in _lists(table, f"{title}.").items():
        own = key.removeprefix(f"{title}.")
        found[own if "." in own else f"strategy.{own}"] = values
    return found


def _lists(table: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, ...]]:
    found = {}
    for key, values in leaves(table, prefix).items():
        if not isinstance(values, list):
            raise ConfigError(f"grid.{key} = {values!r} is not a list; write [{values!r}]")
        if not values:
            raise ConfigError(
                f"grid.{key} = [] has no values, so there is nothing to run; give at least one or "
                "leave the key out"
            )
        if (double := repeated([repr(value) for value in values])) is not None:
            raise ConfigError(
                f"grid.{key} has {double} twice, and both would be one problem; write it once"
            )
        found[key] = tuple(values)
    return found


def parse_seeds(said: object, first: object) -> tuple[int, ...]:
    """Return the seeds: so many from the first on, or those of a list."""
    if isinstance(said, str):
        said = parse_values(said) if "," in said else parse_value(said)
    if said is None:
        said = SEEDS
    if isinstance(said, int) and not isinstance(said, bool) and isinstance(first, int) and said > 0:
        return tuple(range(first, first + said))
    if not (isinstance(said, list) and said and all(type(seed) is int for seed in said)):
        raise ConfigError(
            f"seeds = {said!r} is not allowed: write how many, or which, as in 5 or 0,1,2"
        )
    if (seed := repeated(said)) is not None:
        raise ConfigError(f"seed {seed} is there twice, and would count twice; write it once")
    return tuple(said)


def parse_values(text: str) -> list[Any]:
    """Read values between commas."""
    try:
        return list(tomllib.loads(f"values = [{text}]")["values"])
    except tomllib.TOMLDecodeError:
        return [parse_value(value.strip()) for value in text.split(",")]


def repeated(values: Sequence[Hashable]) -> Hashable:
    """Return what is there more than once; None if nothing is."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
