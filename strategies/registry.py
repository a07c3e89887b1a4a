"""Strategies by name, and the check of their knobs."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from roundel.core.errors import ConfigError
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
    accepted = signature(make).parameters
    hints = get_type_hints(make)
    checked: dict[str, Any] = {knob: about.default for knob, about in accepted.items()}
    for knob, value in knobs.items():
        if knob not in accepted:
            raise ConfigError(f"strategy.{knob} is not a knob of {name}; {suggest(knob, accepted)}")
        try:
            checked[knob] = TypeAdapter(hints[knob]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"strategy.{knob} = {value!r} does not fit: {reason}") from error
    return checked
