"""What a strategy of Flower's remembers is written down, and read into a new one."""

import logging
import random
import threading
from collections import deque
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


@pytest.mark.parametrize(
    ("value", "like", "why"),
    [
        (threading.Lock(), threading.Lock(), "Thing.it is a _thread.lock"),
        ([threading.Lock()], None, "Thing.it[...] is a _thread.lock"),
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
