"""What is there already is left alone by the garbage collector, as long as anybody asks for it."""

import gc
import threading

import pytest

from roundel.core.collector import frozen, seldom


def test_what_was_there_before_is_left_alone_in_the_block():
    with frozen():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_the_end_of_an_inner_block_leaves_the_outer_one_as_it_was():
    with frozen():
        with frozen():
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_blocks_that_overlap_end_with_the_last_one():
    inside, over = threading.Event(), threading.Event()

    def other():
        with frozen():
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=other)
    with frozen():
        thread.start()
        inside.wait(10)
    assert gc.get_freeze_count() > 0
    over.set()
    thread.join()
    assert gc.get_freeze_count() == 0


def test_a_block_that_raises_is_over():
    with pytest.raises(ValueError, match="no"), frozen():
        raise ValueError("no")
    assert gc.get_freeze_count() == 0


def test_all_objects_are_looked_through_rarely_in_the_block_and_as_before_after_it():
    before = gc.get_threshold()
    with seldom():
        assert gc.get_threshold() == (*before[:2], 100)
        with seldom():
            assert gc.get_threshold() == (*before[:2], 100)
        assert gc.get_threshold() == (*before[:2], 100)
    assert gc.get_threshold() == before
