"""The arms of a comparison as users write them, in tables or in one line each."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from roundel.core.comparison import Arm, leaves, put, settings_text, strategy_title
from roundel.core.configfile import parse_value
from roundel.core.errors import ConfigError
from roundel.core.grid import Grid, parse_values, repeated
from roundel.core.suggest import suggest

STRATEGIES = ("fedavg", "fedprox", "scaffold", "fedadam")
"""What is compared unless something is named."""

_SETTING = re.compile(r"""\s+([\w.+-]+)=((?:"(?:[^"\\]|\\.)*"|[^\s"]|\s(?![\w.+-]+=))*)""")
"""A setting of an arm that is written in one line; spaces may be between quotes or brackets."""

_TITLE = frozenset({"strategy.name", "strategy.parts"})


@dataclass(frozen=True, kw_only=True)
class _Arms:
    """Arms as they are written: one for every combination of the values."""

    settings: Mapping[str, tuple[Any, ...]]
    label: str = ""
    tuned: bool = False


def make_arms(
    said: Sequence[str], tables: object, grid: Grid, own: Mapping[str, Any]
) -> tuple[Arm, ...]:
    """Return the arms of a comparison.

    Args:
        said: Lines such as ``"fedprox mu=0.01,0.1"``, in place of all others.
        tables: Those of a file, in place of the strategies of its grid.
        grid: What varies.
        own: The settings of the base's strategy.

    Raises:
        ConfigError: An arm cannot be read, none takes what is said, or two have one name.
    """
    return tuple(_expanded(_written(said, tables, grid, own), grid, own))


def _written(
    said: Sequence[str], tables: object, grid: Grid, own: Mapping[str, Any]
) -> Iterator[_Arms]:
    """Yield the arms that a user has written, or the default ones."""
    if said:
        yield from map(_parsed_arm, said)
    elif tables:
        if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
            raise ConfigError(f"arms = {tables!r} is not allowed: write a table [[arms]] for each")
        for table in tables:
            yield _arm_of_table(table, own)
    elif "strategy.name" in grid.how:
        for name in grid.how["strategy.name"]:
            yield _Arms(settings=_titled(str(name)))
    elif grid.how and "strategy.name" in own:
        yield _Arms(settings=_titled(strategy_title(own)))
    else:
        mine = [strategy_title(own)] if "strategy.name" in own else []
        for title in dict.fromkeys([*mine, *STRATEGIES]):
            yield _Arms(settings=_titled(title))


def _expanded(written: Iterator[_Arms], grid: Grid, own: Mapping[str, Any]) -> Iterator[Arm]:
    """Yield an arm for every combination of values, and complain of what nobody takes.

    What the base says of a strategy is for the arms of that name; its parts are for all of them.
    """
    own = {"strategy.name": "fedavg", **own} if own else {}
    parts = {key: value for key, value in own.items() if key == "strategy.parts"}
    shared = {key: values for key, values in grid.how.items() if key != "strategy.name"}
    titles, labels = [], []
    for arms in written:
        title = strategy_title({key: values[0] for key, values in arms.settings.items()})
        titles.append(title)
        lists = {**shared, **grid.of.get(title, {}), **arms.settings}
        same = own.get("strategy.name") == lists["strategy.name"][0]
        for values in product(*lists.values()):
            settings = (own if same else parts) | dict(zip(lists, values, strict=True))
            shown = {
                key: settings[key]
                for key in lists.keys() - _TITLE
                if len(lists[key]) > 1 or not (arms.label or key in shared)
            }
            label = arms.label or strategy_title(settings)
            labels.append(" ".join(filter(None, [label, _in_order(shown, lists)])))
            yield Arm(label=labels[-1], settings=settings, tuned=arms.tuned)
    _check_all_used(grid, own, titles)
    for label in labels:
        _check_label(label)
    if (double := repeated(labels)) is not None:
        raise ConfigError(
            f"two arms are called {double!r}; leave one out, or give it another name by label=..."
        )


def _check_label(label: str) -> None:
    """Refuse a name that a table, a spreadsheet or a terminal would take for more than a name."""
    if not label.isprintable() or not label.strip() or label[0] in "=+-@":
        raise ConfigError(
            f"an arm cannot be called {label!r}: use printable characters in one line, and begin "
            "with none of = + - @, which spreadsheets take for a formula"
        )


def _in_order(shown: Mapping[str, Any], keys: Iterable[str]) -> str:
    return settings_text({key: shown[key] for key in keys if key in shown})


def _check_all_used(grid: Grid, own: Mapping[str, Any], titles: Sequence[str]) -> None:
    for title in grid.of.keys() - set(titles):
        raise ConfigError(
            f"[grid.{title}] is for a strategy that is not compared; {suggest(title, titles)}"
        )
    knobs = [key for key in own if key not in _TITLE]
    if knobs and own["strategy.name"] not in {title.split("+")[0] for title in titles}:
        raise ConfigError(
            f"{knobs[0]} = {own[knobs[0]]!r} is for {own['strategy.name']}, which is not compared; "
            f"write it beside its strategy, as in {_example(titles[0], knobs[0])}"
        )


def _example(title: str, knob: str) -> str:
    return repr(f"{title} {knob.removeprefix('strategy.')}=...")


def _titled(title: str) -> dict[str, tuple[Any, ...]]:
    """Return the settings that a title stands for, such as ``fedadam+prox``."""
    name, *parts = title.split("+")
    if not all([name, *parts]):
        raise ConfigError(f"{title!r} names no strategy; write it as in fedavg or fedadam+prox")
    return {"strategy.name": (name,)} | ({"strategy.parts": (parts,)} if parts else {})


def _parsed_arm(text: str) -> _Arms:
    """Read such as ``fedprox mu=0.01,0.1 client.lr=0.05``."""
    title, space, said = text.strip().partition(" ")
    settings = _titled(title)
    label, tuned = "", False
    if rest := _SETTING.sub("", space + said).strip():
        raise ConfigError(
            f"{rest!r} in the arm {text!r} is no setting; write it as in 'fedprox mu=0.1'"
        )
    for key, values in _SETTING.findall(space + said):
        if key == "label":
            label = str(parse_value(values))
        elif key == "tuned":
            tuned = parse_value(values) is True
        elif not (found := parse_values(values)):
            raise ConfigError(f"{key} in the arm {text!r} has no value; write {key}=VALUE")
        else:
            settings[key if "." in key else f"strategy.{key}"] = tuple(found)
    return _Arms(settings=settings, label=label, tuned=tuned)


def _arm_of_table(table: dict[str, Any], own: Mapping[str, Any]) -> _Arms:
    table = dict(table)
    label, tuned = table.pop("label", ""), table.pop("tuned", False)
    if not isinstance(label, str) or not isinstance(tuned, bool):
        raise ConfigError(
            f"an arm's label = {label!r} and tuned = {tuned!r} are not allowed: one is a text, the "
            "other true or false"
        )
    settings = {key: (value,) for key, value in leaves(table).items()}
    if alone := [key for key in settings if "." not in key]:
        raise ConfigError(
            f"an arm has {alone[0]} = {table[alone[0]]!r}, which is the same for all arms; write "
            "it outside of [[arms]], or a knob as strategy.KNOB"
        )
    if "strategy.name" not in settings:
        if "strategy.name" not in own:
            raise ConfigError(f"the arm {table!r} says no strategy.name; add it")
        settings = {key: (value,) for key, value in own.items() if key in _TITLE} | settings
    return _Arms(settings=settings, label=label, tuned=tuned)


def arm_table(arm: Arm) -> dict[str, Any]:
    """Return an arm as a table that `_arm_of_table` reads."""
    table: dict[str, Any] = {"label": arm.label, "tuned": arm.tuned}
    for key, value in arm.settings.items():
        put(table, key, value)
    return table


def arm_text(arm: Arm) -> str:
    """Return an arm as a line that `_parsed_arm` reads."""
    settings = dict(arm.settings)
    title = settings.pop("strategy.name")
    parts = settings.get("strategy.parts", [])
    if all(isinstance(part, str) for part in parts):
        title = "+".join([title, *settings.pop("strategy.parts", [])])
    words = [
        f"{key.removeprefix('strategy.')}={value_text(value)}" for key, value in settings.items()
    ]
    label = " ".join(filter(None, [title, settings_text(settings)]))
    words += [f"label={value_text(arm.label)}"] if arm.label != label else []
    words += ["tuned=true"] if arm.tuned else []
    return " ".join([title, *words])


def value_text(value: object) -> str:
    """Write a value the way `parse_value` and `parse_values` read it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = re.fullmatch(r"[\w.:/@+-]+", value) and parse_value(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _literal(value: object) -> str:
    """Write a value as TOML does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value_text(value)
