"""Strategies by name, and the check of their knobs.

Each constructor returns a `Part`, or a `Strategy` of several. Either can be an experiment's
strategy on its own, where sites that it leaves open are those of federated averaging, or one of the
parts that another is composed with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roundel.core.config import StrategyConfig
from roundel.core.errors import ConfigError
from roundel.core.knobs import settle
from roundel.core.suggest import suggest
from roundel.core.usercode import load_function, user_code
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox
from roundel.strategies.scaffold import scaffold

Constructor = Callable[..., Part | Strategy]

FAMILIES: Mapping[str, tuple[Constructor, ...]] = {
    "averaging and server optimizers": (fedavg, fedavgm, fedadagrad, fedadam, fedyogi),
    "drift correction": (fedprox, scaffold),
}
"""What is there, by what it is for."""

STRATEGIES: Mapping[str, Constructor] = {
    make.__name__: make for family in FAMILIES.values() for make in family
}


def make_strategy(
    name: str, knobs: Mapping[str, Any], parts: Sequence[str | Mapping[str, Any]] = ()
) -> Strategy:
    """Build a strategy from its name and knobs, and the parts that it is composed with.

    Args:
        name: A key of `STRATEGIES`, or a function of the user's own as ``package.module:function``.
        knobs: Keyword arguments of that constructor.
        parts: Further keys, each alone or as ``"name"`` among its knobs.

    Raises:
        ConfigError: A name or a knob is unknown, or a value has the wrong type.
        CompositionError: A value is out of range, or two parts contradict each other.
    """
    said = settled(StrategyConfig.model_validate({**knobs, "name": name, "parts": list(parts)}))
    first = _made(name, said.knobs)
    if not said.parts:
        return compose(first, name=name)
    return compose(first, *(_made(*_split(part)) for part in said.parts))


def _made(name: str, knobs: Mapping[str, Any]) -> Part | Strategy:
    with user_code(f"making the strategy {name!r}", ConfigError):
        made = _constructor(name, "strategy")(**knobs)
    if not isinstance(made, Part | Strategy):
        raise ConfigError(
            f"strategy.name = {name!r} returned {type(made).__name__}; it must return a Part or a "
            "Strategy"
        )
    return made


def _constructor(name: str, section: str) -> Constructor:
    """Return what makes a strategy: one of ours, or the user's own ``package.module:function``."""
    if ":" in name:
        return load_function(name, f"{section}.name")
    if name not in STRATEGIES:
        raise ConfigError(f"{section}.name = {name!r} is unknown; {suggest(name, STRATEGIES)}")
    return STRATEGIES[name]


def settled(config: StrategyConfig) -> StrategyConfig:
    """Return the section with every knob of the strategy and of its parts, defaults included.

    Raises:
        ConfigError: A name or a knob is unknown, or a value has the wrong type.
    """
    parts: list[str | dict[str, Any]] = []
    for place, part in enumerate(config.parts):
        name, knobs = _split(part)
        section = f"strategy.parts[{place}]"
        parts.append({"name": name, **check_knobs(name, knobs, section)})
    knobs = check_knobs(config.name, config.knobs)
    return StrategyConfig.model_validate({**knobs, "name": config.name, "parts": parts})


def _split(part: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(part, str):
        return part, {}
    if not isinstance(part.get("name"), str):
        raise ConfigError(
            f"strategy.parts has {dict(part)!r}, which does not say its name; write a name, or "
            '{name = "...", knob = value}'
        )
    return part["name"], {knob: value for knob, value in part.items() if knob != "name"}


def check_knobs(name: str, knobs: Mapping[str, Any], section: str = "strategy") -> dict[str, Any]:
    """Return every knob of a strategy with the value it gets, defaults included.

    Raises:
        ConfigError: The name or a knob is unknown, or a value has the wrong type.
    """
    return settle(_constructor(name, section), knobs, section=section, name=name)
