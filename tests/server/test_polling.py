"""Looking at something again and again."""

import threading

import pytest

from roundel.server.polling import polling

TIMEOUT_S = 30.0


def test_it_looks_at_once_and_again_and_no_more_after_the_block():
    looked: list[int] = []
    twice = threading.Event()

    def look() -> None:
        looked.append(len(looked))
        if len(looked) > 1:
            twice.set()

    with polling(look, every_s=0.001):
        assert twice.wait(TIMEOUT_S)
    seen = len(looked)
    assert all(thread.name != "polling" for thread in threading.enumerate())
    assert len(looked) == seen


def test_a_block_that_is_over_at_once_is_seen_as_it_began_and_as_it_ended():
    looked = []
    state = "before"
    with polling(lambda: looked.append(state), every_s=TIMEOUT_S):
        state = "after"
    assert looked[-1] == "after"
    assert len(looked) == 2


def test_a_block_that_fails_is_not_looked_at_again():
    looked = []
    with pytest.raises(ValueError, match="no"), polling(lambda: looked.append(1), TIMEOUT_S):
        raise ValueError("no")
    assert looked == [1]
