"""Forks of this process: how one comes to be, what it leaves alone, and how it ends.

A fork has all that was prepared, data included, without a copy of it, and starts within
milliseconds; nothing needs to be sent to it, so the user's own objects may be anything.

A fork is silent, and never returns to the code that called. It ends with the process that it was
forked from, however that ends, even by a signal that nobody can catch.
"""

import gc
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Never

LOST = 3
"""Exit code of a fork whose first process is gone."""

_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A pipe by which forks notice that the process they were forked from is gone.

    Attributes:
        alive: It ends when that process does.
        held: Its other end, which that process alone must hold.
    """

    alive: int
    held: int


@contextmanager
def tied() -> Iterator[Tie]:
    """Yield what ties forks to this process; when the context ends, so do they."""
    alive, held = os.pipe()
    try:
        yield Tie(alive=alive, held=held)
    finally:
        os.close(held)
        os.close(alive)


def fork(tie: Tie, work: Callable[[], int], last: Callable[[], None]) -> int:
    """Fork this process; return the number of the new one.

    Args:
        tie: To this process.
        work: What the fork does; it returns the exit code. It runs in a thread of its own: OpenMP's
            threads were not forked, and a main thread that used them before would wait for them
            forever.
        last: What it does when it finds this process gone.

    Raises:
        OSError: There is no room for another process.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    with warnings.catch_warnings():
        # Newer Pythons warn of other threads, whose locks a fork would inherit: ours draw the
        # progress, which forks never do, and wait in a socket.
        warnings.simplefilter("ignore", DeprecationWarning)
        # What is garbage by now is this process's to collect: a fork has not the threads for
        # which some of it, such as the sockets of an earlier run, would wait.
        gc.freeze()
        try:
            process = os.fork()
        except OSError:
            gc.unfreeze()
            raise
    if process == 0:
        _be(tie, work, last)
    gc.unfreeze()
    return process


def fork_with_channel(
    tie: Tie,
    serve: Callable[[socket.socket], int],
    others: Iterable[int],
    last: Callable[[], None] = lambda: None,
) -> tuple[int, socket.socket]:
    """Fork this process and stay connected with the new one.

    Args:
        tie: To this process.
        serve: What the fork does with its end of the channel; it returns the exit code.
        others: Descriptors of the channels of other forks, which this one must not hold open.
        last: As for `fork`.

    Returns:
        Its number, and this process's end of the channel.

    Raises:
        OSError: There is no room for another process or channel.
    """
    here, there = socket.socketpair()

    def work() -> int:
        here.close()
        for other in others:
            os.close(other)
        with there:
            return serve(there)

    try:
        process = fork(tie, work, last)
    except OSError:
        here.close()
        raise
    finally:
        there.close()
    return process, here


def _be(tie: Tie, work: Callable[[], int], last: Callable[[], None]) -> Never:
    """Be a fork until it ends."""
    code = [_FAILED]
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # what there is to say, the first process says
        _be_silent()
        os.close(tie.held)
        threading.Thread(target=_end_with, args=(tie, last), daemon=True).start()

        def worked() -> None:
            code[0] = work()

        worker = threading.Thread(target=worked)
        worker.start()
        worker.join()
    finally:
        os._exit(code[0])


def _be_silent() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - lives on


def _end_with(tie: Tie, last: Callable[[], None]) -> None:
    """End this process, whatever it is doing, as soon as the first one is gone."""
    os.read(tie.alive, 1)
    last()
    os._exit(LOST)


def ended(process: int, options: int = 0) -> int | None:
    """Wait for a fork.

    Args:
        process: Its number.
        options: Those of `os.waitpid`.

    Returns:
        Its exit code, negative if it was a signal; None while it runs.
    """
    try:
        number, status = os.waitpid(process, options)
    except ChildProcessError:  # somebody else has waited for it
        return 0
    return os.waitstatus_to_exitcode(status) if number else None


def ending(code: int) -> str:
    """Say what an exit code without a report means.

    >>> ending(7)
    'exit code 7'
    """
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    more = ", as systems do that run out of memory" if -code == signal.SIGKILL else ""
    return f"the signal {name}{more}"
