"""Forks of this process: what they return, and that they end with it."""

import os
import signal
import time

import pytest

from roundel.simulations.forking import LOST, ended, ending, fork, tied


def nothing() -> None:
    """Do nothing at the end."""


def test_a_fork_does_its_work_and_leaves_a_code():
    with tied() as tie:
        process = fork(tie, lambda: 7, nothing)
        assert ended(process) == 7


def test_work_that_raises_leaves_a_code_that_is_not_zero():
    def fail() -> int:
        raise SystemExit

    with tied() as tie:
        assert ended(fork(tie, fail, nothing)) == 1


def test_a_fork_ends_when_what_it_was_forked_from_lets_go(tmp_path):
    def dawdle() -> int:
        time.sleep(100)
        return 0

    with tied() as tie:
        process = fork(tie, dawdle, (tmp_path / "gone").touch)
        assert ended(process, os.WNOHANG) is None
    assert ended(process) == LOST
    assert (tmp_path / "gone").exists()


def test_who_was_waited_for_already_has_ended_well():
    with tied() as tie:
        process = fork(tie, lambda: 7, nothing)
        assert ended(process) == 7
        assert ended(process) == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, "exit code 3"),
        (-signal.SIGSEGV, "the signal SIGSEGV"),
        (-signal.SIGKILL, "the signal SIGKILL, as systems do that run out of memory"),
    ],
)
def test_an_exit_code_is_said_in_words(code, said):
    assert ending(code) == said
