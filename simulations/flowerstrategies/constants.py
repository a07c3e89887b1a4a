"""What is the same in every new strategy of a kind, and what only looks as if it were.

A module, a class or a plain function is what it is. A function that closes over something, a bound
method and a partial keep a state behind their names: nobody may take them for those of a new one.
"""

import enum
import logging
import random
import re
from functools import partial
from inspect import isclass, ismodule
from pathlib import PurePath
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

METHODS = (MethodType, BuiltinMethodType)
"""What may be bound to an object."""

_HEAP_TYPE = 1 << 9
"""CPython's flag of classes that were made by a statement ``class``, or as if they were."""

_FIXED = (bool, int, float, complex, str, bytes)


class _Empty:
    """As small as an object with attributes can be."""


_DRAWS: tuple[Any, ...] = (random.random, np.random.normal)
_GENERATORS = tuple(draw.__self__ for draw in _DRAWS)
"""The global generators: they are seeded and put back around each call of a strategy."""


def name_of(value: object) -> str | None:
    """Return the name of what may be the same in every strategy; None for what has a state."""
    if isinstance(value, enum.Enum | PurePath | re.Pattern | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, logging.Logger):
        return f"logger {value.name}"
    if isclass(value) or ismodule(value) or _is_function(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
    return None


def is_same(value: object, like: object) -> bool:
    """Tell whether one thing that has a name can stand for another one.

    Args:
        value: Something that has a `name_of`.
        like: What stands at its place in a new strategy.
    """
    if isinstance(value, FunctionType):
        return like is value or (isinstance(like, FunctionType) and _made_of(value, like))
    if isclass(value) or ismodule(value) or callable(value):
        return type(like) is type(value) and bool(like == value)
    return name_of(like) == name_of(value)


def has_state(value: object) -> bool:
    """Tell whether a function remembers something that its name does not tell.

    >>> has_state(bound), has_state(lambda seen=[]: seen)
    (False, True)
    """
    if not isinstance(value, FunctionType):
        return False
    defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    return bool(value.__closure__ or vars(value)) or not all(map(_is_fixed, defaults))


def bound(owner: object, name: str) -> object:
    """Return a method of an object, as its class defines it; None if there is none.

    >>> bound([3, 1, 3], "count")(3)
    2
    """
    found: Any = getattr(type(owner), name, None)
    return found.__get__(owner) if hasattr(found, "__get__") else None


def is_plain(kind: type) -> bool:
    """Tell whether all that objects of a class are is in their attributes."""
    return (
        kind.__dictoffset__ != 0
        and kind.__basicsize__ <= _Empty.__basicsize__  # those with slots, or of C, take more
        and all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__)
    )


def _is_function(value: Any) -> bool:  # noqa: ANN401 - of any type
    """Tell whether something is called that is bound to no object."""
    if isinstance(value, METHODS):
        owner: Any = value.__self__
        of_none = owner is None or isclass(owner) or ismodule(owner)
        return of_none or any(owner is each for each in _GENERATORS)
    if isinstance(value, partial) or is_plain(type(value)):
        return False
    return callable(value) and hasattr(value, "__qualname__")


def _made_of(value: FunctionType, like: FunctionType) -> bool:
    """Tell whether two functions without a state do the same."""
    return (
        value.__code__ == like.__code__
        and value.__globals__ is like.__globals__
        and repr(value.__defaults__) == repr(like.__defaults__)
        and repr(value.__kwdefaults__) == repr(like.__kwdefaults__)
    )


def _is_fixed(value: object) -> bool:
    """Tell whether nobody can change what a default is."""
    if isinstance(value, tuple):
        return type(value) is tuple and all(map(_is_fixed, value))
    known = value is None or type(value) in _FIXED or name_of(value) is not None
    return known and not has_state(value)
