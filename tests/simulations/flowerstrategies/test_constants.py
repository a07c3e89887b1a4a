"""What is the same in every new strategy, and what is not."""

import logging
import math
import random
import re
import threading
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from roundel.simulations.flowerstrategies.constants import (
    bound,
    has_state,
    is_plain,
    is_same,
    name_of,
)


class Plain:
    """Has attributes, and a method."""

    def method(self) -> None:
        """Do nothing."""


class Slotted:
    """Keeps what it has where `vars` does not show it."""

    __slots__ = ("a",)


class Below(Slotted):
    """Has attributes besides."""


def closing(value: Any) -> Any:
    return lambda: value


CLOSED = closing(1)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Plain, f"{__name__}.Plain"),
        (Plain.method, f"{__name__}.Plain.method"),
        (np.mean, "numpy.mean"),
        (logging.getLogger("a"), "logger a"),
        (torch.float32, "torch.float32"),
        (Path("a"), repr(Path("a"))),
        (Plain(), None),
        (Plain().method, None),
        (partial(len), None),
        ([].append, None),
        (random.Random(3).random, None),
    ],
)
def test_what_has_a_name_is_bound_to_nothing(value, name):
    assert name_of(value) == name


@pytest.mark.parametrize(
    "value",
    [
        *(Plain, math, math.sqrt, len, dict.fromkeys, np.mean, np.add, torch.mean, random.random),
        *(random.shuffle, np.random.normal, re.compile("a"), lru_cache(len), closing),
    ],
)
def test_a_thing_with_a_name_is_the_same_as_itself_and_as_nothing_else(value):
    assert name_of(value) is not None
    assert is_same(value, value)
    for other in (None, max, Slotted, 3, np.ones(2)):
        assert not is_same(value, other)


def test_functions_that_close_over_something_have_a_state():
    assert has_state(closing(3))
    assert not has_state(closing)
    assert not has_state(lambda rate=0.5, *, names=("a", len): (rate, names))
    assert has_state(lambda *, inner=(1, [2]): inner)
    assert has_state(lambda inner=CLOSED: inner)


def test_a_method_is_found_as_its_class_defines_it():
    plain = Plain()
    vars(plain)["method"] = len
    assert bound(plain, "method") == Plain.method.__get__(plain)
    assert bound(plain, "other") is None


@pytest.mark.parametrize("kind", [Plain, FedAvg, threading.Event, logging.LoggerAdapter])
def test_objects_are_plain_if_all_of_them_is_in_their_attributes(kind):
    assert is_plain(kind)


@pytest.mark.parametrize(
    "kind", [object, int, Slotted, Below, type("", (random.Random,), {}), type("", (dict,), {})]
)
def test_objects_are_not_plain_if_something_of_them_is_elsewhere(kind):
    assert not is_plain(kind)
