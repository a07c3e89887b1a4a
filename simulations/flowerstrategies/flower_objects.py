"""The state of a strategy of Flower's, which is an object, as one tensor of bytes, and back.

Flower lets a strategy keep anything in its attributes. Numbers, texts, arrays, records, generators
and collections of them are written down, and so are the attributes of objects that are in a new
strategy of the same kind too. A bound method is its object and a name, a partial what it is made
of. Classes and functions that remember nothing are those of a new strategy. Nothing is pickled, and
nothing is forgotten: what cannot be written down in this way makes a strategy `Opaque`.

    8 bytes    length of the head, unsigned, little-endian
    head       JSON: the round, the tree of values, and how long each buffer is
    buffers    one behind the other; arrays are files of NumPy's
"""

import json
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from roundel.core.params import bytes_of
from roundel.simulations.flowerapps.npy import read_npy, write_npy
from roundel.simulations.flowerstrategies.constants import (
    METHODS,
    bound,
    has_state,
    is_plain,
    is_same,
    name_of,
)

_WORD = 8

_KINDS = "biufcSU?"
_LISTS: Mapping[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
_MAPPINGS: Mapping[str, Callable[..., Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "RecordDict": RecordDict,
    "ArrayRecord": ArrayRecord,
    "MetricRecord": MetricRecord,
    "ConfigRecord": ConfigRecord,
}
_HOLLOW = (list, dict, OrderedDict)
"""What can be read before what is in it, so that it may hold itself."""

_PARTIAL = ("func", "args", "keywords")
_ABSENT = object()


class Opaque(Exception):
    """A strategy keeps something that cannot be written down; says where and what."""


def written(strategy: object, fresh: object, round: int) -> Tensor:
    """Write a strategy down.

    Args:
        strategy: As it is after a round; nothing of it is changed.
        fresh: A new one of the same kind.
        round: The round.

    Returns:
        Bytes that share no memory with the strategy.

    Raises:
        Opaque: They would not do to go on.
    """
    writer = _Writer()
    tree = writer.tree(strategy, fresh, type(strategy).__name__)
    return _joined({"round": round, "tree": tree}, writer.buffers)


def unwritten(why: str, round: int) -> Tensor:
    """Return what stands in the place of a strategy that is `Opaque`."""
    return _joined({"round": round, "opaque": why}, [])


def why_opaque(state: Tensor) -> str:
    """Return why nothing can be read back; empty if it can."""
    why: str = _head(state)[0].get("opaque", "")
    return why


def round_of(state: Tensor) -> int:
    """Return after which round a strategy was written down."""
    number: int = _head(state)[0]["round"]
    return number


def read_into(fresh: object, state: Tensor) -> None:
    """Make a new strategy what `written` was given.

    Args:
        fresh: Changed in place.
        state: What `written` has returned for one of the same kind.
    """
    head, start = _head(state)
    data = bytes_of(state)
    buffers: list[bytes] = []
    for length in head["lengths"]:
        buffers.append(bytes(data[start : start + length]))
        start += length
    _Reader(buffers).value(head["tree"], fresh)


def _joined(head: dict[str, Any], buffers: Sequence[bytes]) -> Tensor:
    text = json.dumps({**head, "lengths": [len(each) for each in buffers]}).encode()
    return torch.frombuffer(
        bytearray(b"".join([len(text).to_bytes(_WORD, "little"), text, *buffers])),
        dtype=torch.uint8,
    )


def _head(state: Tensor) -> tuple[dict[str, Any], int]:
    """Return the head, and where the buffers begin."""
    data = bytes_of(state)
    end = _WORD + int.from_bytes(data[:_WORD], "little")
    head: dict[str, Any] = json.loads(bytes(data[_WORD:end]))
    return head, end


class _Writer:
    """Makes a tree of plain values of an object.

    What occurs twice is written once, so that it is one thing again when it is read.
    """

    def __init__(self) -> None:
        self.buffers: list[bytes] = []
        self._seen: dict[int, int] = {}
        self._open: set[int] = set()
        self._taken: set[int] = set()
        self._alive: list[object] = []  # so that no other object gets the same id meanwhile

    def tree(self, value: Any, like: Any, path: str) -> list[Any]:  # noqa: ANN401 - of any type
        """Return a value as a list that begins with its form.

        Args:
            value: The value.
            like: What stands at its place in a new strategy.
            path: The place, for messages.
        """
        if value is None or type(value) in (bool, int, float, str):
            return ["is", value]
        if (name := name_of(value)) is not None:
            return self._constant(value, like, path, name)
        if (place := self._seen.get(id(value))) is not None:
            if place in self._open:
                raise Opaque(f"{path} is a {type(value).__name__} that holds itself")
            return ["again", place]
        place = self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if type(value) not in _HOLLOW:
            self._open.add(place)
        known = self._known(value, like, path)
        self._open.discard(place)
        return known or self._object(value, like, path)

    def _constant(self, value: Any, like: Any, path: str, name: str) -> list[Any]:  # noqa: ANN401 - see above
        if has_state(value):
            raise Opaque(f"{path} is the function {name}, which may remember something")
        if not is_same(value, like):
            raise Opaque(f"{path} became {name}")
        return ["same"]

    def _known(self, value: Any, like: Any, path: str) -> list[Any] | None:  # noqa: ANN401 - see above
        kind = type(value)
        if kind in (np.ndarray, Tensor) or isinstance(value, np.generic):
            return self._numbers(value, path)
        if kind in (np.random.Generator, random.Random):
            return self._generator(value, path)
        if kind in (bytes, Array):
            return self._raw(value)
        if kind in (list, tuple, set, frozenset):
            return [kind.__name__, self._items(value, like, path)]
        if kind is deque:
            return ["deque", value.maxlen, self._items(value, like, path)]
        if kind in _MAPPINGS.values():
            return [kind.__name__, self._pairs(value, like, path)]
        if kind in METHODS or kind is partial:
            return self._callable(value, like, path)
        return None

    def _raw(self, value: Any) -> list[Any]:  # noqa: ANN401 - see above
        if isinstance(value, bytes):
            return ["bytes", self._kept(value)]
        about = [value.dtype, list(value.shape), value.stype]
        return ["Array", *about, self._kept(value.data)]

    def _callable(self, value: Any, like: Any, path: str) -> list[Any]:  # noqa: ANN401 - see above
        if not isinstance(value, partial):
            owner, name = value.__self__, value.__name__
            if bound(owner, name) != value:
                kind = type(owner).__qualname__
                raise Opaque(f"{path} is a method {name!r} that the class {kind} does not have")
            return ["method", self.tree(owner, _part(like, METHODS, "__self__"), path), name]
        if vars(value):
            raise Opaque(f"{path} is a partial with attributes")
        parts = [
            self.tree(getattr(value, name), _part(like, partial, name), f"{path}.{name}")
            for name in _PARTIAL
        ]
        return ["partial", *parts]

    def _generator(self, value: Any, path: str) -> list[Any]:  # noqa: ANN401 - see above
        if isinstance(value, random.Random):
            return ["python generator", self.tree(value.getstate(), _ABSENT, path)]
        source = value.bit_generator
        state = self.tree(source.state, _ABSENT, path)
        return ["numpy generator", type(source).__name__, state]

    def _numbers(self, value: Any, path: str) -> list[Any]:  # noqa: ANN401 - see above
        form = "number" if isinstance(value, np.generic) else type(value).__name__
        try:
            array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        except TypeError as error:  # of a dtype that NumPy lacks
            raise Opaque(f"{path} is {value.dtype}") from error
        if array.dtype.kind not in _KINDS:
            raise Opaque(f"{path} holds {array.dtype}")
        return [form, self._kept(write_npy(array))]

    def _object(self, value: Any, like: Any, path: str) -> list[Any]:  # noqa: ANN401 - see above
        kind = type(value)
        if not is_plain(kind):
            raise Opaque(f"{path} is a {kind.__module__}.{kind.__qualname__}")
        if type(like) is not kind:
            raise Opaque(f"{path} is a {kind.__qualname__} that a new strategy does not have")
        if id(like) in self._taken:
            raise Opaque(f"{path} is a {kind.__qualname__} of which a new strategy has fewer")
        self._taken.add(id(like))
        return ["object", self._pairs(vars(value), vars(like), path, ".{}")]

    def _items(self, values: Any, like: Any, path: str) -> list[Any]:  # noqa: ANN401 - see above
        ordered = type(like) is type(values) and not isinstance(like, set | frozenset)
        others = list(like) if ordered else []
        others += [_ABSENT] * len(values)
        places = range(len(values)) if isinstance(values, Sequence) else ["..."] * len(values)
        return [
            self.tree(each, other, f"{path}[{place}]")
            for place, each, other in zip(places, values, others, strict=False)
        ]

    def _pairs(
        self,
        values: Any,  # noqa: ANN401 - see above
        like: Any,  # noqa: ANN401 - see above
        path: str,
        place: str = "[{!r:.40}]",
    ) -> list[Any]:
        others = like if isinstance(like, Mapping) else {}
        return [
            [
                self.tree(key, _ABSENT, f"a key of {path}"),
                self.tree(each, others.get(key, _ABSENT), path + place.format(key)),
            ]
            for key, each in values.items()
        ]

    def _kept(self, data: bytes) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1


class _Reader:
    """Makes values of what a `_Writer` has made of them, in the same order."""

    def __init__(self, buffers: Sequence[bytes]) -> None:
        self._buffers = buffers
        self._seen: list[Any] = []

    def value(self, tree: list[Any], like: Any) -> Any:  # noqa: ANN401 - of any type
        """Return the value of a tree; objects are those of the new strategy."""
        form, *rest = tree
        match form:
            case "is":
                return rest[0]
            case "same":
                return like
            case "again":
                return self._seen[rest[0]]
            case _:
                return self._new(form, rest, like)

    def _new(self, form: str, rest: list[Any], like: Any) -> Any:  # noqa: ANN401 - see above
        """Return a value that may occur again; it has its number before those inside it."""
        place = len(self._seen)
        self._seen.append(None)
        made: Any
        match form:
            case "list" | "dict" | "OrderedDict" | "object":  # which may hold themselves
                made = like if form == "object" else {**_LISTS, **_MAPPINGS}[form]([])
                self._seen[place] = made
                self._fill(made, rest[0], like)
            case "deque":
                made = deque(self._items(rest[1], like), rest[0])
            case "Array":
                dtype, shape, stype, buffer = rest
                made = Array(dtype, tuple(shape), stype, self._buffers[buffer])
            case "numpy generator":
                source = getattr(np.random, rest[0])()
                source.state = self.value(rest[1], None)
                made = np.random.Generator(source)
            case "python generator":
                made = random.Random()  # noqa: S311 - a user's own
                made.setstate(self.value(rest[0], None))
            case "method" | "partial":
                made = self._callable(form, rest, like)
            case "bytes":
                made = self._buffers[rest[0]]
            case "ndarray" | "number" | "Tensor":
                array = read_npy(self._buffers[rest[0]])
                made = torch.from_numpy(array) if form == "Tensor" else array
                made = array[()] if form == "number" else made
            case _ if form in _LISTS:
                made = _LISTS[form](self._items(rest[0], like))
            case _:
                made = _MAPPINGS[form](dict(self._pairs(rest[0], like)))
        self._seen[place] = made
        return made

    def _callable(self, form: str, rest: list[Any], like: Any) -> Any:  # noqa: ANN401 - see above
        if form == "method":
            return bound(self.value(rest[0], _part(like, METHODS, "__self__")), rest[1])
        function, args, keywords = (
            self.value(tree, _part(like, partial, name))
            for tree, name in zip(rest, _PARTIAL, strict=True)
        )
        return partial(function, *args, **keywords)

    def _fill(self, made: Any, inside: list[Any], like: Any) -> None:  # noqa: ANN401 - see above
        if isinstance(made, list):
            made += self._items(inside, like)
        elif isinstance(made, dict):
            made.update(self._pairs(inside, like))
        else:
            attributes = dict(self._pairs(inside, dict(vars(made))))
            vars(made).clear()
            vars(made).update(attributes)

    def _items(self, trees: list[Any], like: Any) -> list[Any]:  # noqa: ANN401 - see above
        others = list(like) if isinstance(like, list | tuple | set | frozenset | deque) else []
        others += [None] * len(trees)
        return [self.value(tree, other) for tree, other in zip(trees, others, strict=False)]

    def _pairs(self, pairs: list[Any], like: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - see above
        others = like if isinstance(like, Mapping) else {}
        found: list[tuple[Any, Any]] = []
        for key_tree, tree in pairs:
            key = self.value(key_tree, None)
            found.append((key, self.value(tree, others.get(key))))
        return found


def _part(like: object, kind: Any, name: str) -> Any:  # noqa: ANN401 - see above
    """Return what stands at the place of a part in a new strategy."""
    return getattr(like, name) if isinstance(like, kind) else _ABSENT
