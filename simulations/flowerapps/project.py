"""What the ``pyproject.toml`` of a Flower app says."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundel.core.configfile import parse_value
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.suggest import suggest

FILE = "pyproject.toml"
DEFAULT_CLIENTS = 10
_FIXED = ("partition-id", "num-partitions")
"""What each client finds in its node config, whoever hosts it."""

Value = bool | int | float | str
RunConfig = Mapping[str, Value]
"""Settings of an app by key; the keys of nested tables are joined by dots."""


class AppError(RunFailed):
    """A Flower app is not one, is broken, or has failed."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A Flower app as it lies on the disk.

    Attributes:
        root: Its directory.
        name: What it is called.
        named: Whether it says so itself; else it is called like its directory.
        server: Where its ServerApp is, such as ``"pkg.server_app:app"``.
        client: Where its ClientApp is.
        config: Its settings.
        clients: How many clients it is simulated with unless something else is asked for.
    """

    root: Path
    name: str
    named: bool
    server: str
    client: str
    config: RunConfig
    clients: int


def read_project(root: Path, settings: Sequence[str] = ()) -> Project:
    """Read what an app is made of.

    Args:
        root: The app's directory.
        settings: ``key=value``, each a key that the app's configuration has.

    Raises:
        AppError: There is no app, or a part of it is missing.
        ConfigError: A setting is wrong.
    """
    file = root / FILE
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise AppError(
            f"cannot read {file}: {reason}; name the directory of a Flower app"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise AppError(f"{file} is not a TOML file: {error}") from error
    app = _table(tree, file, "tool", "flwr", "app")
    name = tree.get("project", {}).get("name")
    return Project(
        root=root.resolve(),
        name=str(name or root.resolve().name),
        named=bool(name),
        server=_component(app, file, "serverapp"),
        client=_component(app, file, "clientapp"),
        config=overridden(flattened(app.get("config", {}), file), settings),
        clients=_clients(tree),
    )


def _table(tree: Mapping[str, Any], file: Path, *path: str) -> Mapping[str, Any]:
    for key in path:
        tree = tree.get(key, {})
        if not isinstance(tree, dict) or not tree:
            raise AppError(
                f"{file} has no [{'.'.join(path)}]: it is not a Flower app; add the table with its "
                "components, or name another directory"
            )
    return tree


def _component(app: Mapping[str, Any], file: Path, kind: str) -> str:
    said = app.get("components", {}).get(kind)
    if said is None:
        raise AppError(
            f"{file} names no {kind}; add {kind} = 'package.module:app' to "
            "[tool.flwr.app.components]"
        )
    module, _, attribute = str(said).partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise AppError(
            f"{file}: {kind} = {said!r} is not of the form module:attribute; write it such as "
            "'package.server_app:app'"
        )
    return str(said)


def flattened(table: Mapping[str, Any], file: Path, prefix: str = "") -> dict[str, Value]:
    """Return nested tables as one, with the keys joined by dots.

    Args:
        table: As TOML gives it.
        file: Where it stands, for the error.
        prefix: Of the keys, with its dot.

    Raises:
        AppError: A value is neither a boolean, a number nor a text.

    >>> flattened({"lr": 0.1, "data": {"name": "birds"}}, Path("pyproject.toml"))
    {'lr': 0.1, 'data.name': 'birds'}
    """
    flat: dict[str, Value] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flattened(value, file, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            flat[prefix + key] = value
        else:
            raise AppError(
                f"{file}: the setting {prefix}{key} = {value!r} is a {type(value).__name__}; "
                "Flower takes booleans, numbers and texts"
            )
    return flat


def overridden(config: RunConfig, settings: Sequence[str]) -> dict[str, Value]:
    """Return a configuration with other values.

    Args:
        config: What the app says.
        settings: ``key=value``; the value as TOML has it, and anything else is a text.

    Raises:
        ConfigError: A setting is not one, or the app has no such key.

    >>> overridden({"lr": 0.1, "name": "birds"}, ["lr=0.2", "name=cats"])
    {'lr': 0.2, 'name': 'cats'}
    """
    changed = dict(config)
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise ConfigError(f"-s {setting!r} is not a setting; write -s key=value")
        if key not in config:
            hint = suggest(key, config) if config else "the app has no settings"
            raise ConfigError(f"-s {setting!r}: {key!r} is not a setting of the app; {hint}")
        value = parse_value(text)
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(
                f"-s {setting!r} is a {type(value).__name__}; Flower takes booleans, numbers and "
                "texts"
            )
        changed[key] = value
    return changed


def node_settings(settings: Sequence[str]) -> dict[str, Value]:
    """Return what a node says about itself to the app's clients.

    Args:
        settings: ``key=value``; the value as TOML has it, and anything else is a text.

    Raises:
        ConfigError: A setting is not one, or says which client it is for.

    >>> node_settings(["data=/srv/birds", "fast=true"])
    {'data': '/srv/birds', 'fast': True}
    """
    found: dict[str, Value] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise ConfigError(
                f"--node-config {setting!r} is not a setting; write --node-config key=value"
            )
        if key in _FIXED:
            raise ConfigError(
                f"--node-config {setting!r}: {key} is the client's number or how many there are; "
                "choose the clients of this node with --partition I/N"
            )
        value = parse_value(text)
        found[key] = value if isinstance(value, bool | int | float | str) else text
    return found


def _clients(tree: Mapping[str, Any]) -> int:
    """Return the size of the federation that the app is simulated with by default."""
    federations = tree["tool"]["flwr"].get("federations", {})
    chosen = federations.get(federations.get("default"), {})
    options = chosen.get("options", {}) if isinstance(chosen, dict) else {}
    number = options.get("num-supernodes")
    return number if isinstance(number, int) and number > 0 else DEFAULT_CLIENTS
