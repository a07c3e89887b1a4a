"""Strategies of Flower's as strategies of ours.

Clients train as in federated averaging, with the proximal term if the strategy asks for one. What
the server does with updates is Flower's: see `roundel.simulations.flowerstrategies.flower_rounds`.
Its object is made anew for each round and given the state that it had after the one before
(`roundel.simulations.flowerstrategies.flower_objects`), so that a run that is resumed goes on as it
would have. An object that cannot be written down is kept; a run with one begins anew.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from inspect import Parameter, Signature, getdoc, isabstract, isclass, isfunction, signature
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import flwr.serverapp.strategy as flowers
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from roundel.core.errors import CompositionError, ConfigError, RunFailed
from roundel.core.knobs import settle
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS
from roundel.core.seeds import derive
from roundel.core.suggest import suggest
from roundel.simulations.flowerstrategies.flower_cohort import Cohort, CohortGrid, Waits, surrounded
from roundel.simulations.flowerstrategies.flower_objects import (
    Opaque,
    read_into,
    round_of,
    unwritten,
    why_opaque,
    written,
)
from roundel.simulations.flowerstrategies.flower_rounds import PULL, ROUND, Played
from roundel.simulations.flowerstrategies.numpydoc import in_googles_form
from roundel.strategies.aggregators import Rows
from roundel.strategies.compose import Part
from roundel.strategies.fedprox import prox
from roundel.strategies.registry import FLOWER
from roundel.strategies.sites import Aggregate, RoundContext, ServerTransform, State

Make = Callable[[], Strategy]
"""Makes a new strategy of Flower's, the same each time."""

_OBJECT = "object"
_SEED = derive(0, "flower strategy")
"""What random numbers start at while a strategy is made, so that all of a kind are the same."""

_ENOUGH = (100, 1_000, 10_000)
"""How many nodes a strategy is shown that is asked what it tells clients, until they suffice."""

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_PLAIN = (bool, int, float, str, list, tuple, dict)
_TREES = ("FedXgbBagging", "FedXgbCyclic")


# ---- by name


def named(name: str, key: str) -> Callable[..., Any]:
    """Return what makes a strategy that Flower brings.

    Args:
        name: As in ``"flower:FedAvg"``.
        key: Where the experiment says it, such as ``"strategy.name"``.

    Raises:
        ConfigError: There is none of that name, or it is not for models like ours.
    """
    wanted = name.removeprefix(FLOWER)
    if wanted in _TREES:
        raise ConfigError(
            f"{key} = {name!r} joins trees, and tasks here train tensors by gradients; choose "
            "another one"
        )
    known = {
        each: found
        for each in flowers.__all__
        if isclass(found := getattr(flowers, each))
        and issubclass(found, Strategy)
        and not isabstract(found)
    }
    if wanted not in known:
        names = [f"{FLOWER}{each}" for each in known if each not in _TREES]
        raise ConfigError(f"{key} = {name!r} is unknown; {suggest(name, names)}")
    return constructor_of(known[wanted], name)


def constructor_of(kind: type[Any], name: str) -> Callable[..., Any]:
    """Return a class of strategies as a function whose keywords are its knobs.

    Those of a class that passes ``**kwargs`` on to its base are the base's too. What no file can
    hold, such as functions, is left out; a strategy that another one wraps is named.

    Args:
        kind: The class.
        name: What it is called.
    """
    parameters, hints = _knobs(kind)
    wraps = [knob for knob, hint in hints.items() if isclass(hint) and issubclass(hint, Strategy)]

    def make(**knobs: Any) -> Any:  # noqa: ANN401 - a strategy of Flower's
        inner = {knob: _inner(knobs[knob], f"strategy.{knob}") for knob in wraps if knob in knobs}
        try:
            with surrounded(name, _SEED, 0):
                return kind(**{**knobs, **inner})
        except ValueError as error:
            if kind.__module__.startswith("flwr."):
                raise CompositionError(f"{name}: {error}") from error
            raise

    said: Any = make
    said.__name__ = said.__qualname__ = kind.__name__
    said.__doc__ = in_googles_form(getdoc(kind) or "")
    said.__signature__ = Signature(list(parameters.values()))
    said.__annotations__ = {**hints, **dict.fromkeys(wraps, str | dict[str, Any])}
    made: Callable[..., Any] = said
    return made


def _knobs(kind: type[Any]) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """Return the keywords of a class, with what they may be."""
    found: dict[str, Parameter] = {}
    types_of: dict[str, Any] = {}
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if not isfunction(init):
            continue
        _self, *parameters = signature(init).parameters.values()
        try:
            hints = get_type_hints(init)
        except NameError:  # of what is there for a type checker only
            hints = {}
        for each in parameters:
            hint = hints.get(each.name, Any)
            if each.kind in _NAMED and each.name not in found and _fits_a_file(each, hint):
                found[each.name] = each.replace(kind=Parameter.KEYWORD_ONLY)
                types_of[each.name] = hint
        if all(each.kind is not Parameter.VAR_KEYWORD for each in parameters):
            break
    return found, types_of


def _fits_a_file(parameter: Parameter, hint: Any) -> bool:  # noqa: ANN401 - any annotation
    if parameter.default is Parameter.empty:
        return True
    return _is_plain(hint) and (parameter.default is None or isinstance(parameter.default, _PLAIN))


def _is_plain(hint: Any) -> bool:  # noqa: ANN401 - any annotation
    """Tell whether a file can hold some value of a type."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return any(_is_plain(each) for each in get_args(hint) if each is not types.NoneType)
    if origin in (Any, Literal):
        return True
    return isclass(origin) and issubclass(origin, (*_PLAIN, Sequence, Mapping))


def _inner(said: str | Mapping[str, Any], key: str) -> Strategy:
    """Make the strategy that another one wraps: one that Flower brings.

    One of the user's own could come from a coordinator that nobody has allowed to name it.
    """
    table = {"name": said} if isinstance(said, str) else dict(said)
    name = f"{FLOWER}{str(table.pop('name', '')).removeprefix(FLOWER)}"
    make = named(name, key)
    strategy: Strategy = make(**settle(make, table, section=key, name=name))
    return strategy


# ---- as a part


def part_of(name: str, make: Callable[[], Any]) -> Part:
    """Return what a strategy of Flower's is as one of ours.

    Args:
        name: What it is called.
        make: Makes a new one.

    Raises:
        ConfigError: It is of a kind that cannot be asked round by round.
        CompositionError: It tells clients what they do not understand.
    """
    strategy = _new(make)
    _check(name, strategy)
    mu = _pull(name, strategy)
    held = _Held(make, Played(name=name, mu=mu))
    rows = Rows(check=cache(partial(_check_size, held.played, make)))
    pull = prox(mu) if mu else Part(name=name)
    return Part(
        name=name,
        corrections=pull.corrections,
        pull=pull.pull,
        aggregators={PARAMS: rows, BUFFERS: rows, INTEGERS: rows},
        server=(
            ServerTransform(
                name="flower",
                init=held.init,
                update=held.update,
                alone=True,
                missing=lambda state: why_opaque(state[_OBJECT]),
            ),
        ),
        packages={"flwr": version("flwr")},
    )


def _new(make: Make) -> Strategy:
    with surrounded("", _SEED, 0):
        return make()


def _check(name: str, strategy: object) -> None:
    """Refuse strategies that do something that nobody here would call."""
    if not isinstance(strategy, Strategy):
        raise ConfigError(
            f"{name} is a strategy of Flower's older interface, flwr.server.strategy; compare one "
            "of flwr.serverapp.strategy, or run it in a Flower app with `roundel flower run`"
        )
    kind = type(strategy)
    if kind.start is not Strategy.start:
        raise ConfigError(
            f"{name} has a method start of its own, which is Flower's loop over rounds and is not "
            "called here; compare a subclass with `start = Strategy.start` if nothing in it matters"
        )


def _pull(name: str, strategy: Strategy) -> float:
    """Find out how strongly a strategy wants clients to be pulled to the model.

    It is asked for its first round, without a model, which has not been made yet. One that needs
    it raises something: what it tells clients is found out in round 1 then.
    """
    settings: dict[str, Any] = {}
    for count in _ENOUGH:
        try:
            settings = _told(name, strategy, count)
        except Waits:
            continue
        except (Exception, SystemExit):  # noqa: BLE001 - it is the user's code, and is called again
            break
        break
    for key, value in settings.items():
        if key not in (ROUND, PULL):
            raise CompositionError(Played(name=name, mu=0.0).untold(key, value))
    return float(settings.get(PULL, 0.0))


def _told(name: str, strategy: Strategy, count: int) -> dict[str, Any]:
    """Return what a strategy tells clients in round 1, if so many are there."""
    found: dict[str, Any] = {}
    grid = CohortGrid(name, Cohort.of(range(count)))
    with surrounded(name, 0, count):
        for message in strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid):
            for config in message.content.config_records.values():
                found.update(config)
    return found


def _check_size(played: Played, make: Make, size: int) -> None:
    """Refuse a cohort for which a strategy would wait for ever.

    Raises:
        CompositionError: It would.
    """
    try:
        with surrounded(played.name, 0, size):
            played.asked(make(), 1, ArrayRecord(), Cohort.of(range(size)))
    except CompositionError:
        raise
    except (Exception, SystemExit):  # noqa: BLE001, S110 - see `_pull`
        pass


class _Held:
    """A strategy between rounds: its state alone, unless that cannot be written down.

    Attributes:
        played: How it is asked.
    """

    def __init__(self, make: Make, played: Played) -> None:
        self.played = played
        self._make = make
        self._kept: tuple[int, Strategy] | None = None

    def init(self, _params: Tensor) -> State:
        """Return the state of a new strategy."""
        return {_OBJECT: self._written(_new(self._make), 0)}

    def update(
        self, updates: Aggregate, state: State, params: Tensor, context: RoundContext
    ) -> tuple[Aggregate, State]:
        """Let the strategy make a step of a round's updates; see `ServerTransform`."""
        if not context.completed:
            return {
                channel: torch.zeros_like(rows.sum(0)) for channel, rows in updates.items()
            }, state
        strategy = self._restored(state[_OBJECT], context.round)
        moved = self.played.step(strategy, updates, context)
        return moved, {_OBJECT: self._written(strategy, context.round)}

    def _restored(self, state: Tensor, round: int) -> Strategy:
        """Return the strategy as it was after the round before."""
        why = why_opaque(state)
        strategy = _new(self._make)
        if not why:
            read_into(strategy, state)
            return strategy
        if round_of(state) == 0:
            return strategy
        if self._kept is None or self._kept[0] != round_of(state):
            raise RunFailed(
                f"{self.played.name} cannot go on in round {round} from what was written down: "
                f"{why}; begin a new run"
            )
        return self._kept[1]

    def _written(self, strategy: Strategy, round: int) -> Tensor:
        try:
            return written(strategy, _new(self._make), round)
        except Opaque as why:
            self._kept = (round, strategy)
            return unwritten(str(why), round)
