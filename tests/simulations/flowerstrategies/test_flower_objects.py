"""What a strategy of Flower's remembers is written down, and read into a new one."""

import logging
import random
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from roundel.simulations.flowerstrategies.flower_objects import (
    Opaque,
    read_into,
    unwritten,
    why_opaque,
    written,
)


class Thing:
    """Anything with attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def method(self) -> "Thing":
        """Return whose it is."""
        return self


def there_and_back(value: Any, like: Any = None) -> Any:
    fresh = Thing(it=like)
    read_into(fresh, written(Thing(it=value), Thing(it=like), 3))
    return vars(fresh)["it"]


class Tracker:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def update(self) -> int:
        """Count."""
        self.count += 1
        return self.count


def updates(times: int) -> Any:
    tracker = Tracker()
    for _ in range(times):
        tracker.update()
    return tracker.update


def counting() -> Any:
    count = 0

    def update() -> int:
        nonlocal count
        count += 1
        return count

    return update


def schedule(lr: float) -> Any:
    return lambda: lr


def by_default(lr: Any) -> Any:
    def rate(lr: Any = lr) -> Any:
        return lr

    return rate


def by_default_only() -> Any:
    return lambda rate=(0.5, "a", len): rate


def with_attribute() -> Any:
    rate = by_default(0.5)
    rate.count = 1
    return rate


class Patched(Tracker):
    """Has a method of its class's name, and another one."""


def patched() -> Any:
    return Tracker.update.__get__(Patched())


def renamed() -> Any:
    def other(self: Any) -> int:
        return 3

    return other.__get__(Tracker())


class Seeded(random.Random):
    """A generator of a class of its own, whose state is in no attribute."""


class Wrapping:
    """Is called, and has the name of a function, but counts."""

    def __init__(self, count: int) -> None:
        self.__qualname__ = "Wrapping.call"
        self.count = count

    def __call__(self) -> int:
        return self.count


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(1 << 80),
        0.1,
        float("inf"),
        "Grüße",
        b"\x00\xff",
        [1, [2.5, None]],
        (1, ("a",)),
        {1, 2},
        frozenset({"a"}),
        {"a": 1, 2: [3], (4, 5): {}},
        deque([1, 2], maxlen=2),
        np.float32(0.1),
        Array(np.ones(2)),
        ArrayRecord({"w": Array(np.arange(3.0))}),
        MetricRecord({"loss": 0.5, "each": [1, 2]}),
        ConfigRecord({"name": "a", "raw": b"b"}),
    ],
    ids=repr,
)
def test_plain_values_and_records_come_back_as_they_were(value):
    found = there_and_back(value)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "array",
    [np.ones((2, 3), np.float32), np.asfortranarray(np.eye(3)), np.array(7), np.array(["a", "bc"])],
    ids=repr,
)
def test_arrays_come_back_with_dtype_and_shape_and_memory_of_their_own(array):
    found = there_and_back(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert (found == array).all()
    assert found.flags.writeable


def test_a_tensor_comes_back():
    assert torch.equal(there_and_back(torch.arange(3.0)), torch.arange(3.0))


def test_a_deque_keeps_its_limit():
    assert there_and_back(deque([1], maxlen=4)).maxlen == 4


def test_generators_go_on_where_they_were():
    numpys, pythons = np.random.default_rng(3), random.Random(3)
    numpys.normal(size=5)
    pythons.random()
    found = there_and_back([numpys, pythons])
    assert found[0].normal() == numpys.normal()
    assert found[1].random() == pythons.random()


def test_what_is_one_thing_stays_one_thing():
    weights = np.zeros(2)
    found = there_and_back({"best": weights, "last": weights})
    assert found["best"] is found["last"]
    own: list[Any] = []
    own.append(own)
    found = there_and_back(own)
    assert found[0] is found


def test_an_object_that_a_new_strategy_has_too_keeps_its_place():
    inner = Thing(count=1)
    found = there_and_back(Thing(count=5, extra=[1]), like=inner)
    assert found is inner
    assert vars(found) == {"count": 5, "extra": [1]}


def test_functions_loggers_and_paths_are_those_of_a_new_strategy():
    inner = Thing()
    kept = [inner.method, np.mean, Thing, logging.getLogger("a"), Path("a"), torch.float32]
    other = Thing()
    found = there_and_back([other, other.method, *kept[1:]], like=[inner, *kept])
    assert found[0] is inner
    assert found[1]() is inner
    assert found[2:] == kept[1:]


def test_a_bound_method_goes_on_with_its_object():
    assert there_and_back(updates(2), like=updates(0))() == 3
    inner = Thing(cb=None)
    inner.cb = inner.method  # type: ignore[attr-defined]  # it is anything
    found = there_and_back(inner, like=Thing(cb=None))
    assert found.cb() is found


def test_a_method_of_a_generator_or_of_a_collection_goes_on_too():
    numpys, pythons = np.random.default_rng(3), random.Random(3)
    numpys.normal(size=5)
    pythons.random()
    kept = [numpys.normal, pythons.random, pythons.uniform, [1, 1, 2].count]
    found = there_and_back(kept, like=list(kept))
    assert found[0]() == numpys.normal()
    assert found[1]() == pythons.random()
    assert found[2](0, 1) == pythons.uniform(0, 1)
    assert found[3](1) == 2


def test_functions_that_draw_from_the_global_generators_stay_what_they_are():
    kept = [random.random, random.shuffle, np.random.normal]
    assert there_and_back(kept, like=kept) == kept


def test_a_partial_is_what_it_is_made_of():
    tracker = Tracker()
    tracker.count = 4
    one, other = partial(max, [3.0], default=tracker.update), partial(max, [], default=updates(0))
    found = there_and_back(one, like=other)
    assert (found.func, found.args) == (max, ([3.0],))
    assert found.keywords["default"]() == 5


def test_a_plain_function_that_is_made_anew_is_the_same():
    one, other = by_default_only(), by_default_only()
    assert there_and_back(one, like=other) is other


def test_what_is_called_like_a_function_and_is_an_object_is_written_down():
    assert there_and_back(Wrapping(3), like=Wrapping(0))() == 3


def test_two_objects_of_which_a_new_strategy_has_but_one_are_not_taken_for_one():
    same = Thing(n=0)
    with pytest.raises(
        Opaque, match=r"Thing\.it\[1\] is a Thing of which a new strategy has fewer"
    ):
        there_and_back([Thing(n=1), Thing(n=2)], like=[same, same])


def test_what_would_have_to_be_read_before_it_is_there_is_refused():
    inside: list[Any] = []
    inside.append((inside,))
    found = there_and_back(inside)
    assert found[0][0] is found
    around: Any = ([],)
    around[0].append(around)
    with pytest.raises(Opaque, match="is a tuple that holds itself"):
        there_and_back(around)


@pytest.mark.parametrize(
    ("value", "like", "why"),
    [
        (counting(), counting(), "counting.<locals>.update, which may remember something"),
        (schedule(0.25), schedule(0.5), "schedule.<locals>.<lambda>, which may remember something"),
        (partial(schedule(0.25)), partial(schedule(0.5)), "Thing.it.func is the function"),
        (by_default(0.25), by_default(0.5), "became"),
        (by_default([]), by_default([]), "which may remember something"),
        (by_default(True), by_default(1), "became"),
        (with_attribute(), with_attribute(), "which may remember something"),
        (by_default(0.5), schedule(0.5), "became"),
        (by_default(0.5), None, "became"),
        (renamed(), renamed(), "Thing.it is a method 'other' that the class Tracker does not have"),
        (patched(), updates(0), "Thing.it is a Patched that a new strategy does not have"),
        (updates(1), None, "Thing.it is a Tracker that a new strategy does not have"),
        (Seeded(3), Seeded(4), "Thing.it is a "),
        ({Thing}, {Thing, Tracker}, "Thing.it[...] became"),
        (dict.fromkeys, int.from_bytes, "became"),
    ],
)
def test_nothing_is_taken_for_that_of_a_new_strategy_by_its_name(value, like, why):
    with pytest.raises(Opaque) as caught:
        there_and_back(value, like)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("value", "like", "why"),
    [
        (threading.Lock(), threading.Lock(), "Thing.it is a _thread.lock"),
        ([1, deque([2, threading.Lock()])], None, "Thing.it[1][1] is a _thread.lock"),
        ({"a": {2: threading.Lock()}}, None, "Thing.it['a'][2] is a _thread.lock"),
        ({threading.Lock()}, None, "Thing.it[...] is a _thread.lock"),
        ({threading.Lock(): 1}, None, "a key of Thing.it is a _thread.lock"),
        (
            {"k" * 99: Thing()},
            None,
            f"Thing.it['{'k' * 39}] is a Thing that a new strategy does not have",
        ),
        (Thing(lock=threading.Lock()), Thing(), "Thing.it.lock is a _thread.lock"),
        (
            partial(dict, key=threading.Lock()),
            partial(dict),
            "Thing.it.keywords['key'] is a _thread.lock",
        ),
        (Thing(), None, "Thing.it is a Thing that a new strategy does not have"),
        (np.mean, np.sum, "Thing.it became numpy.mean"),
        (np.array([None]), None, "Thing.it holds object"),
        (torch.zeros(1, dtype=torch.bfloat16), None, "Thing.it is torch.bfloat16"),
    ],
)
def test_what_cannot_be_written_down_is_named(value, like, why):
    with pytest.raises(Opaque, match="Thing") as caught:
        there_and_back(value, like)
    assert str(caught.value) == why


def test_bytes_say_why_nothing_can_be_read_from_them():
    assert why_opaque(unwritten("a lock", 2)) == "a lock"
    assert why_opaque(written(Thing(), Thing(), 2)) == ""


def test_what_is_written_down_shares_no_memory_with_the_strategy():
    array = np.zeros(2)
    thing, fresh = Thing(it=array), Thing(it=None)
    state = written(thing, fresh, 1)
    array[:] = 9.0
    read_into(fresh, state)
    assert vars(fresh)["it"].tolist() == [0.0, 0.0]
