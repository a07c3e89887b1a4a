"""Strategies by name, and the check of their knobs."""

from collections.abc import Callable, Mapping
from typing import Any

from roundel.core.errors import ConfigError
from roundel.core.knobs import settle
from roundel.core.suggest import suggest
from roundel.strategies.compose import Strategy
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox
from roundel.strategies.scaffold import scaffold

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    make.__name__: make
    for make in (fedavg, fedprox, fedavgm, fedadagrad, fedadam, fedyogi, scaffold)
}


def make_strategy(name: str, knobs: Mapping[str, Any]) -> Strategy:
    """Build a strategy from its name and knobs.

    Args:
        name: A key of `STRATEGIES`.
        knobs: Keyword arguments of that constructor.

    Raises:
        ConfigError: The name or a knob is unknown, or a value has the wrong type.
        CompositionError: A value is out of range.
    """
    checked = check_knobs(name, knobs)
    return STRATEGIES[name](**checked)


def check_knobs(name: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every knob of a strategy with the value it gets, defaults included.

    Raises:
        ConfigError: The name or a knob is unknown, or a value has the wrong type.
    """
    make = STRATEGIES.get(name)
    if make is None:
        raise ConfigError(f"strategy.name = {name!r} is unknown; {suggest(name, STRATEGIES)}")
    return settle(make, knobs, section="strategy", name=name)
