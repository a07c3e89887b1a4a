"""Strategies by name, and the check of their knobs.

Each constructor returns a `Part`, or a `Strategy` of several. Either can be an experiment's
strategy on its own, where sites that it leaves open are those of federated averaging, or one of the
parts that another is composed with.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib import import_module
from inspect import isclass
from typing import Any

from pydantic import ValidationError

from roundel.core.config import StrategyConfig
from roundel.core.errors import CompositionError, ConfigError
from roundel.core.flowerversion import installed, need_flower
from roundel.core.knobs import settle
from roundel.core.suggest import suggest
from roundel.core.usercode import FORM, load_function, user_code
from roundel.strategies.bulyan import bulyan
from roundel.strategies.cast import half
from roundel.strategies.centred_clipping import centred_clipping
from roundel.strategies.clipping import clip
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.coordinatewise import median, trimmed_mean
from roundel.strategies.ditto import ditto, fine_tune
from roundel.strategies.dp_fedavg import dp_adaptive, dp_fedavg
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedbn import fedbn
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fedexp import fedexp
from roundel.strategies.fednova import fednova
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox, prox
from roundel.strategies.fedsgd import fedsgd
from roundel.strategies.fltrust import fltrust
from roundel.strategies.geometric_median import geometric_median, rfa
from roundel.strategies.krum import krum, multi_krum
from roundel.strategies.local_dp import local_dp
from roundel.strategies.lora import fedit, ffa_lora
from roundel.strategies.mixing import bucketing, nnm
from roundel.strategies.moon import moon
from roundel.strategies.personal_layers import fedper, fedrep, lg_fedavg
from roundel.strategies.pfedme import pfedme
from roundel.strategies.qfedavg import qfedavg
from roundel.strategies.quantisation import int8, qsgd
from roundel.strategies.scaffold import scaffold
from roundel.strategies.selectors import (
    availability,
    by_size,
    over_selection,
    poisson,
    power_of_choice,
    round_robin,
    uniform,
)
from roundel.strategies.signsgd import signsgd
from roundel.strategies.topk import topk

Constructor = Callable[..., Part | Strategy]

FAMILIES: Mapping[str, tuple[Constructor, ...]] = {
    "averaging and server optimizers": (
        fedavg,
        fedsgd,
        fedavgm,
        fedadagrad,
        fedadam,
        fedyogi,
        fedexp,
    ),
    "drift correction": (fedprox, prox, scaffold, fednova, feddyn, moon),
    "fairness": (qfedavg,),
    "robust aggregation": (
        median,
        trimmed_mean,
        krum,
        multi_krum,
        bulyan,
        geometric_median,
        rfa,
        centred_clipping,
        fltrust,
        nnm,
        bucketing,
    ),
    "selection": (
        uniform,
        poisson,
        by_size,
        round_robin,
        power_of_choice,
        availability,
        over_selection,
    ),
    "communication": (half, int8, qsgd, topk, signsgd),
    "personal models": (fedbn, fedper, fedrep, lg_fedavg, ditto, pfedme, fine_tune),
    "adapters": (fedit, ffa_lora),
    "privacy": (clip, dp_fedavg, dp_adaptive, local_dp),
}
"""What is there, by what it is for."""

STRATEGIES: Mapping[str, Constructor] = {
    make.__name__: make for family in FAMILIES.values() for make in family
}


LISTED = "`roundel strategies` lists what there is"
"""Where all their names are found."""

FLOWER = "flower:"
"""How the names of Flower's own strategies begin."""

_OF_FLOWER = "roundel.simulations.flowerstrategies.flower_strategies"
"""What makes ours of those of Flower's. It is found by its name when it is needed, as a user's own
function is: nothing here may import Flower, or what lies above."""


def make_strategy(
    name: str, knobs: Mapping[str, Any], parts: Sequence[str | Mapping[str, Any]] = ()
) -> Strategy:
    """Build a strategy from its name and knobs, and the parts that it is composed with.

    Args:
        name: A key of `STRATEGIES`, a function of the user's own as ``package.module:function``, or
            a strategy of Flower's: one that it brings as ``flower:NAME``, or the user's own class.
        knobs: Keyword arguments of that constructor.
        parts: Further keys, each alone or as ``"name"`` among its knobs.

    Raises:
        ConfigError: A name or a knob is unknown, or a value has the wrong type.
        CompositionError: A value is out of range, or two parts contradict each other.
    """
    try:
        config = StrategyConfig.model_validate({**knobs, "name": name, "parts": list(parts)})
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    said = settled(config)
    first = _made(name, said.knobs)
    if not said.parts:
        return compose(first, name=name)
    others = (
        _made(*_split(part), f"strategy.parts[{place}]") for place, part in enumerate(said.parts)
    )
    return compose(first, *others)


def _made(name: str, knobs: Mapping[str, Any], section: str = "strategy") -> Part | Strategy:
    try:
        with user_code(f"making the strategy {name!r}", ConfigError):
            made = constructor(name, f"{section}.name")(**knobs)
    except CompositionError as error:
        raise CompositionError(_located(str(error), name, knobs, section)) from error
    if not isinstance(made, Part | Strategy):
        raise ConfigError(
            f"{section}.name = {name!r} returned {type(made).__name__}; it must return a Part or a "
            "Strategy"
        )
    return made


def _located(said: str, name: str, knobs: Mapping[str, Any], section: str) -> str:
    """Say where in the experiment stands what a constructor complains of.

    Constructors know their knobs alone, and begin with the one that is wrong: ``levels = 0 must``.
    """
    if said.partition(" = ")[0] in knobs:
        return f"{section}.{said}"
    return said if section == "strategy" else f"{section} ({name}): {said}"


def constructor(name: str, key: str) -> Constructor:
    """Return what makes a strategy: one of ours, the user's own, or one of Flower's.

    Args:
        name: What the experiment says.
        key: Where it says it, such as ``"strategy.name"``.

    Raises:
        ConfigError: There is no such strategy.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" not in name:
        hint = suggest(name, STRATEGIES, f"{LISTED}, and one of your own is {FORM}")
        raise ConfigError(f"{key} = {name!r} is unknown; {hint}")
    make = foreign(name, key)

    @wraps(make)
    def made(**knobs: Any) -> Any:  # noqa: ANN401 - whatever a user's function returns
        strategy = make(**knobs)
        if not of_flower(type(strategy)):
            return strategy
        return _flower().part_of(name, partial(make, **knobs))

    return made


def foreign(name: str, key: str) -> Callable[..., Any]:
    """Return what makes a strategy that is not ours; one of Flower's as Flower knows it.

    Args:
        name: With a colon.
        key: As for `constructor`.

    Raises:
        ConfigError: There is no such strategy.
    """
    if name.startswith(FLOWER):
        found: Callable[..., Any] = _flower().named(name, key)
        return found
    found = load_function(name, key, of_flower)
    return _flower().constructor_of(found, name) if isclass(found) else found


def of_flower(kind: object) -> bool:
    """Tell whether something is a class of strategies as Flower knows them."""
    bases = kind.__mro__ if isclass(kind) else ()
    return any(b.__name__ == "Strategy" and b.__module__.startswith("flwr.") for b in bases)


def _flower() -> Any:  # noqa: ANN401 - a module
    need_flower(installed())
    return import_module(_OF_FLOWER)


def settled(config: StrategyConfig) -> StrategyConfig:
    """Return the section with every knob of the strategy and of its parts, defaults included.

    Raises:
        ConfigError: A name or a knob is unknown, or a value has the wrong type.
    """
    parts: list[str | dict[str, Any]] = []
    for place, part in enumerate(config.parts):
        name, knobs = _split(part)
        section = f"strategy.parts[{place}]"
        knobs = check_knobs(name, knobs, section)
        # A file cannot hold None, which stands for a default that is found out elsewhere.
        parts.append({"name": name, **{k: v for k, v in knobs.items() if v is not None}})
    knobs = check_knobs(config.name, config.knobs)
    return StrategyConfig.model_validate({**knobs, "name": config.name, "parts": parts})


def _split(part: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(part, str):
        return part, {}
    return part["name"], {knob: value for knob, value in part.items() if knob != "name"}


def check_knobs(name: str, knobs: Mapping[str, Any], section: str = "strategy") -> dict[str, Any]:
    """Return every knob of a strategy with the value it gets, defaults included.

    Raises:
        ConfigError: The name or a knob is unknown, or a value has the wrong type.
    """
    return settle(constructor(name, f"{section}.name"), knobs, section=section, name=name)
