"""Forks that do one piece of work after another."""

import os
import signal
import time
from collections import defaultdict

import pytest

from roundel.simulations.crew import Died, Done, side_by_side


def heard(count, workers, work):
    """Return what was said about each piece, in order."""
    said = defaultdict(list)
    for piece, message in side_by_side(count, workers, work):
        said[piece].append(message)
    return dict(said)


def test_each_piece_is_done_once_and_what_is_said_about_it_comes_in_order():
    def work(piece, say):
        for step in range(3):
            say({"piece": piece, "step": step})

    said = heard(5, 2, work)
    assert said == {
        piece: [*({"piece": piece, "step": step} for step in range(3)), Done()]
        for piece in range(5)
    }


def test_workers_live_through_many_pieces():
    said = heard(6, 2, lambda _piece, say: say({"process": os.getpid()}))
    processes = {messages[0]["process"] for messages in said.values()}
    assert os.getpid() not in processes
    assert len(processes) <= 2


def test_there_are_no_more_workers_than_pieces_and_none_without_any():
    assert heard(0, 2, lambda _piece, _say: None) == {}
    assert heard(1, 8, lambda _piece, _say: None) == {0: [Done()]}


def test_a_worker_that_dies_costs_its_piece_and_is_replaced():
    def work(piece, say):
        say({"begun": piece})
        if piece == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    said = heard(4, 2, work)
    assert said[1] == [
        {"begun": 1},
        Died("the signal SIGKILL, as systems do that run out of memory"),
    ]
    assert all(said[piece][-1] == Done() for piece in (0, 2, 3))


def test_all_workers_may_die():
    said = heard(3, 2, lambda _piece, _say: os._exit(5))
    assert said == {piece: [Died("exit code 5")] for piece in range(3)}


def test_long_messages_come_whole():
    said = heard(1, 1, lambda _piece, say: say({"text": "x" * 300_000}))
    assert said == {0: [{"text": "x" * 300_000}, Done()]}


def test_a_worker_that_the_terminal_interrupts_interrupts_everything():
    with pytest.raises(KeyboardInterrupt):
        heard(2, 2, lambda _piece, _say: os.kill(os.getpid(), signal.SIGINT))


def test_whoever_stops_listening_ends_the_workers():
    def work(_piece, say):
        say({"process": os.getpid()})
        time.sleep(100)

    pieces = side_by_side(2, 2, work)
    _, message = next(pieces)
    pieces.close()
    assert isinstance(message, dict)
    with pytest.raises(ProcessLookupError):
        os.kill(message["process"], 0)
