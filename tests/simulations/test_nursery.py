"""Forks on demand, by a fork that does nothing else."""

import os
import signal
import time

import pytest

from roundel.simulations.nursery import nursery


def echo(channel):
    """Say its own number and its parent's; then what it hears, until that ends."""
    channel.sendall(f"{os.getpid()} {os.getppid()}".encode())
    while said := channel.recv(100):
        channel.sendall(said)
    return 7


def hear(channel):
    return [int(word) for word in channel.recv(100).split()]


def test_each_fork_has_a_channel_of_its_own_and_one_parent_which_is_not_this_process():
    with nursery(echo) as forks:
        first, here = forks.fork()
        second, there = forks.fork()
        with here, there:
            (one, parent), (two, other) = hear(here), hear(there)
            there.sendall(b"words")
            assert there.recv(100) == b"words"
    assert (one, two) == (first, second)
    assert parent == other
    assert len({one, two, parent, os.getpid()}) == 4


def test_a_fork_that_has_ended_leaves_how_and_one_that_has_not_is_ended():
    with nursery(echo) as forks:
        done, here = forks.fork()
        busy, there = forks.fork()
        with here, there:
            hear(here)
            here.shutdown(1)
            assert here.recv(1) == b""
            assert forks.end(done, patience_s=5.0) == 7
            assert forks.end(busy) == -signal.SIGKILL


def test_a_fork_that_does_not_end_by_itself_is_waited_for_no_longer_than_said():
    with nursery(echo) as forks:
        busy, channel = forks.fork()
        with channel:
            began = time.monotonic()
            assert forks.end(busy, patience_s=0.05) == -signal.SIGKILL
            assert 0.05 <= time.monotonic() - began < 3


def test_what_it_forks_begins_where_it_began(monkeypatch):
    monkeypatch.setenv("ROUNDEL_PLACE", "before")

    def place(channel):
        channel.sendall(os.environ["ROUNDEL_PLACE"].encode())
        return 0

    with nursery(place) as forks:
        monkeypatch.setenv("ROUNDEL_PLACE", "after")
        _, channel = forks.fork()
        with channel:
            assert channel.recv(100) == b"before"


def test_forks_end_with_the_context():
    with nursery(echo) as forks:
        _, channel = forks.fork()
        hear(channel)
    with channel:
        channel.settimeout(5)
        assert channel.recv(1) == b""


def test_when_it_is_gone_so_are_its_forks_and_whoever_asks_is_told():
    with nursery(echo) as forks:
        number, channel = forks.fork()
        with channel:
            _, parent = hear(channel)
            os.kill(parent, signal.SIGKILL)
            began = time.monotonic()
            assert channel.recv(1) == b""
            assert time.monotonic() - began < 5
        for ask in (forks.fork, lambda: forks.end(number)):
            with pytest.raises(OSError, match="the process that forks them is gone"):
                ask()
