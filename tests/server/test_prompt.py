"""Threads take turns quickly while a coordinator runs, and as before afterwards."""

import gc
import sys

import pytest

from roundel.core.collector import frozen
from roundel.server.prompt import prompt


def test_threads_take_turns_quickly_in_the_block_and_as_before_after_it():
    before_s = sys.getswitchinterval()
    with prompt():
        assert sys.getswitchinterval() == pytest.approx(0.001)
    assert sys.getswitchinterval() == before_s


def test_threads_that_take_turns_more_quickly_already_go_on_to():
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        with prompt():
            assert sys.getswitchinterval() == pytest.approx(0.0005)
    finally:
        sys.setswitchinterval(before_s)


def test_all_objects_are_looked_through_rarely_in_the_block_and_as_before_after_it():
    before = gc.get_threshold()
    with prompt():
        assert gc.get_threshold() == (*before[:2], 100)
    assert gc.get_threshold() == before


def test_what_is_frozen_around_the_block_stays_so_after_it():
    with frozen():
        with prompt():
            pass
        assert gc.get_freeze_count() > 0


def test_what_was_there_before_is_not_looked_through_in_the_block():
    with prompt():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
