"""A strategy whose functions are watched: what they are given, what they return, what they change.

Every call is made twice with the same arguments. Pure functions neither notice nor mind.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from roundel.core.job import Phase
from roundel.core.params import ParamSpec, bytes_of
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.sites import Aggregator, Codec, Finished, ServerTransform
from roundel.strategies.weighers import EQUAL

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "correction": ("gradient", "point", "context"),
    "loss term": ("batch",),
    "finisher": ("trained", "context"),
    "settler": ("channels", "context"),
    "codec's encode": ("channels", "context", "seed"),
    "codec's decode": ("channels", "decoding"),
    "derived channel": ("channels",),
    "mixer": ("rows", "context"),
    "rule": ("rows", "weights", "context"),
    "weigher": ("update",),
    "server transform's init": ("params",),
    "server transform's update": ("aggregate", "state", "params", "context"),
    "broadcast": ("states",),
    "report": ("states", "params"),
    "choice of the evaluated model": ("vector", "state"),
    "training before evaluations": ("phases",),
}
"""Every site that is watched, and what its function is given."""


_LIKE: Mapping[str, str] = {
    "correction": "gradient",
    "report": "params",
    "choice of the evaluated model": "vector",
    "rule": "rows",
}
"""Sites whose result has the shape and dtype of an argument."""


class Asked(Mapping[str, Tensor]):
    """A client's state that notes which names are asked for."""

    def __init__(self, data: Mapping[str, Tensor]) -> None:
        self.data = dict(data)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a strategy's function.

    Attributes:
        site: A key of `ARGUMENTS`.
        part: The part that brought the function.
        function: The function itself.
        arguments: What it was given, copied.
        result: What it returned, copied.
        moment: The round and the client that it was for, as `Log` was told.
    """

    site: str
    part: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Any
    moment: tuple[int, int]


@dataclass
class Log:
    """What is found out while a watched strategy runs.

    Attributes:
        calls: In their order.
        changed: Sentences about arguments that were changed.
        repeated: Sentences about calls that could not be repeated.
        malformed: Sentences about results of another kind than their site's.
        pushes: Part to whether any of its loss terms ever had a gradient.
        moment: The round and client of the calls to come.
    """

    calls: list[Call] = field(default_factory=list[Call])
    changed: list[str] = field(default_factory=list[str])
    repeated: list[str] = field(default_factory=list[str])
    malformed: list[str] = field(default_factory=list[str])
    pushes: dict[str, bool] = field(default_factory=dict[str, bool])
    moment: tuple[int, int] = (0, 0)

    def of(self, site: str) -> list[Call]:
        """Return the calls at one site."""
        return [call for call in self.calls if call.site == site]


def copied(value: Any) -> Any:  # noqa: ANN401 - of any type
    """Return a copy of records, mappings, sequences and tensors, all the way down."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Asked):
        return copied(value.data)
    if isinstance(value, Mapping):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(copied(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type | ParamSpec):
        return replace(value, **{f.name: copied(getattr(value, f.name)) for f in fields(value)})
    return value


def difference(one: Any, other: Any, path: str = "") -> str:  # noqa: ANN401 - of any type
    """Say where two values differ first, bit for bit; nothing if they do not."""
    if isinstance(one, Asked):
        one = one.data
    if isinstance(other, Asked):
        other = other.data
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _tensors_differ(one, other, path)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return _mappings_differ(one, other, path)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f"the length of {path}: {len(one)} became {len(other)}"
        found = (difference(one[at], other[at], f"{path}[{at}]") for at in range(len(one)))
        return next(filter(None, found), "")
    if is_dataclass(one) and type(one) is type(other) and not isinstance(one, type | ParamSpec):
        names = [f.name for f in fields(one)]
        found = (difference(getattr(one, n), getattr(other, n), f"{path}.{n}") for n in names)
        return next(filter(None, found), "")
    return _plain_differ(one, other, path)


def _plain_differ(one: Any, other: Any, path: str) -> str:  # noqa: ANN401 - of any type
    if type(one) is not type(other):
        return f"{path}: {type(one).__name__} became {type(other).__name__}"
    if callable(one) or one is other or repr(one) == repr(other):
        return ""
    return f"{path}: {one} became {other}"


def _mappings_differ(one: Mapping[Any, Any], other: Mapping[Any, Any], path: str) -> str:
    if one.keys() != other.keys():
        return f"{path}: the names {sorted(one)} became {sorted(other)}"
    found = (difference(one[name], other[name], f"{path}[{name!r}]") for name in one)
    return next(filter(None, found), "")


def _tensors_differ(one: Tensor, other: Tensor, path: str) -> str:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        kinds = (f"{each.dtype} of shape {tuple(each.shape)}" for each in (one, other))
        return f"{path}: {' became '.join(kinds)}"
    if bytes_of(one.detach().contiguous()) == bytes_of(other.detach().contiguous()):
        return ""
    left, right = one.detach().flatten(), other.detach().flatten()
    places = ((left != right) | (left.isnan() != right.isnan())).nonzero().flatten().tolist()
    if not places:
        return f"{path}: the signs of its zeros differ"
    at = places[0]
    return f"{path}[{at}]: {left[at].item():.9g} became {right[at].item():.9g}"


def observed(strategy: Strategy, log: Log) -> Strategy:
    """Return the strategy, composed of the same parts with their functions watched."""

    def watch(site: str, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:  # noqa: ANN401 - whatever the site has
            before = copied(given)
            result = function(*given)
            _look(log, site, part, (before, given), result, function(*copied(before)))
            if site == "loss term" and isinstance(result, Tensor):
                log.pushes[part] = log.pushes.get(part, False) or result.requires_grad
            log.calls.append(
                Call(
                    site=site,
                    part=part,
                    function=function,
                    arguments=before,
                    result=copied(result),
                    moment=log.moment,
                )
            )
            return result

        return call

    return compose(*(_watched(part, watch) for part in strategy.parts), name=strategy.name)


Watch = Callable[[str, str, Callable[..., Any]], Callable[..., Any]]


def _watched(part: Part, watch: Watch) -> Part:
    """Return a part with its functions watched, where `ARGUMENTS` names their site."""
    name = part.name

    def over(aggregator: Aggregator) -> Aggregator:
        if isinstance(aggregator, OverRows):
            return replace(aggregator, rule=watch("rule", name, aggregator.rule))
        return aggregator

    def held(site: str, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        return None if function is None else watch(site, name, function)

    weigher, rule = part.weigher, part.rule
    return replace(
        part,
        corrections=tuple(watch("correction", name, each) for each in part.corrections),
        loss_terms=tuple(watch("loss term", name, each) for each in part.loss_terms),
        finishers=tuple(watch("finisher", name, each) for each in part.finishers),
        settlers=tuple(watch("settler", name, each) for each in part.settlers),
        codecs=tuple(_codec(codec, name, watch) for codec in part.codecs),
        weigher=(
            weigher  # others ask whether it is this one
            if weigher is None or weigher == EQUAL
            else replace(weigher, weigh=watch("weigher", name, weigher.weigh))
        ),
        derived={c: watch("derived channel", name, each) for c, each in part.derived.items()},
        mixers=tuple(watch("mixer", name, each) for each in part.mixers),
        rule=rule and replace(rule, rule=watch("rule", name, rule.rule)),
        aggregators={channel: over(each) for channel, each in part.aggregators.items()},
        server=tuple(_link(link, name, watch) for link in part.server),
        broadcast={c: watch("broadcast", name, each) for c, each in part.broadcast.items()},
        report=held("report", part.report),
        evaluated=held("choice of the evaluated model", part.evaluated),
        tuning=held("training before evaluations", part.tuning),
    )


def _look(
    log: Log, site: str, part: str, given: tuple[Any, Any], result: object, again: object
) -> None:
    """Note what is wrong with a call."""
    names = ARGUMENTS[site]
    before, after = (dict(zip(names, values, strict=True)) for values in given)
    for name in names:
        if where := difference(before[name], after[name], name):
            log.changed.append(f"the {site} of {part} changes what it is given: {where}")
    if where := difference(result, again, "its result"):
        log.repeated.append(
            f"the {site} of {part}, called twice with the same arguments: {where}; it keeps "
            "something besides its arguments, or draws at random"
        )
    if wrong := malformed(site, before, result):
        log.malformed.append(f"the {site} of {part} returned {wrong}")


def malformed(site: str, given: Mapping[str, Any], result: object) -> str:
    """Say what is wrong with the kind of a result, or nothing."""
    match site:
        case "correction" | "report" | "choice of the evaluated model" | "rule":
            like = given[_LIKE[site]]
            return _other_than(result, like[0] if site == "rule" else like)
        case "finisher":
            if not isinstance(result, Finished):
                return f"{type(result).__name__}, not a Finished"
            return _no_tensors(result.channels) or _no_tensors(result.state)
        case "codec's encode" | "server transform's update":
            if not isinstance(result, tuple):
                return f"{type(result).__name__}, not a pair"
            return next(filter(None, map(_no_tensors, result)), "")
        case _:
            return _WRONG.get(site, _no_tensors)(result)


def _other_than(result: object, like: Tensor) -> str:
    """Say how a result is no tensor like another one."""
    if not isinstance(result, Tensor):
        return f"{type(result).__name__}, not a tensor"
    if (result.shape, result.dtype) != (like.shape, like.dtype):
        return (
            f"{result.dtype} of shape {tuple(result.shape)}, not {like.dtype} of shape "
            f"{tuple(like.shape)}"
        )
    return ""


def _no_number(result: object) -> str:
    return "" if isinstance(result, int | float) else f"{type(result).__name__}, no number"


def _no_tensor(result: object) -> str:
    return "" if isinstance(result, Tensor) else f"{type(result).__name__}, not a tensor"


def _no_scalar(result: object) -> str:
    """Say how a result is no tensor of one number."""
    if not isinstance(result, Tensor):
        return _no_tensor(result)
    if result.dim():
        return (
            f"a tensor of shape {tuple(result.shape)}, not one number: take its mean over the batch"
        )
    return ""


def _no_phases(result: object) -> str:
    """Say how a result is no sequence of phases."""
    if not isinstance(result, Sequence) or not result:
        return f"{type(result).__name__}, not one or several phases"
    wrong = [type(each).__name__ for each in result if not isinstance(each, Phase)]
    return f"a sequence with {wrong[0]}, not phases" if wrong else ""


def _no_tensors(result: object) -> str:
    """Say which of some named values is no tensor."""
    if not isinstance(result, Mapping):
        return f"{type(result).__name__}, not tensors by name"
    for name, value in result.items():
        if not isinstance(value, Tensor):
            return f"{type(value).__name__} as {name!r}, not a tensor"
    return ""


_WRONG: Mapping[str, Callable[[object], str]] = {
    "loss term": _no_scalar,
    "training before evaluations": _no_phases,
    "weigher": _no_number,
    "derived channel": _no_tensor,
    "broadcast": _no_tensor,
    "mixer": _no_tensor,
}
"""What else a site's result must be; tensors by name where nothing is said."""


def _codec(codec: Codec, part: str, watch: Watch) -> Codec:
    return replace(
        codec,
        encode=watch("codec's encode", part, codec.encode),
        decode=watch("codec's decode", part, codec.decode),
    )


def _link(link: ServerTransform, part: str, watch: Watch) -> ServerTransform:
    return replace(
        link,
        init=watch("server transform's init", part, link.init),
        update=watch("server transform's update", part, link.update),
    )
