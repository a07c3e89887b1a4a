"""Forks made on demand, by a fork that does nothing else.

A process that has worked for a while is no good parent: it has threads, whose locks a fork would
inherit, and devices that it has used, such as a GPU, cannot be used in a fork of it. The nursery
was forked before that, so what it forks begins where it began, however late.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ECONNRESET, EPERM
from functools import partial
from struct import Struct

from roundel.simulations.forking import ended, fork_with_channel, tied

Serve = Callable[[socket.socket], int]
"""What a fork does with its end of a channel; it returns the exit code."""

_POLL_S = 0.005
_ASKED = Struct("<qd")
"""A process that is to end, and how many seconds it is given to do so by itself."""
_SAID = Struct("<q")
_FORK = 0
"""In the place of a process: asks for a fork."""


@contextmanager
def nursery(serve: Serve) -> Iterator["Nursery"]:
    """Yield what forks; when the context ends, so do all forks.

    Args:
        serve: What each fork does.

    Raises:
        OSError: There is no room for another process.
    """
    with tied() as tie:
        process, channel = fork_with_channel(tie, partial(_raise_forks, serve), ())
        try:
            yield Nursery(channel)
        finally:
            with channel, suppress(OSError):  # it may be gone already
                channel.shutdown(socket.SHUT_RDWR)
            ended(process)


class Nursery:
    """Makes forks; several threads may ask it.

    Args:
        channel: To the process that forks.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._turn = threading.Lock()

    def fork(self) -> tuple[int, socket.socket]:
        """Return the number of a new fork, and this process's end of its channel.

        Raises:
            OSError: There is no room for another process, or the nursery is gone.
        """
        with self._turn:
            number, descriptors = self._asked(_FORK, 0.0)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        return number, socket.socket(fileno=descriptors[0])

    def end(self, process: int, patience_s: float = 0.0) -> int:
        """End a fork; each may be ended once.

        Args:
            process: Its number.
            patience_s: How long it is waited for, as it is about to end by itself.

        Returns:
            Its exit code, negative if it was a signal.

        Raises:
            OSError: The nursery is gone.
        """
        with self._turn:
            return self._asked(process, patience_s)[0]

    def _asked(self, number: int, patience_s: float) -> tuple[int, list[int]]:
        with suppress(ConnectionError):
            self._channel.sendall(_ASKED.pack(number, patience_s))
            said, descriptors, _, _ = socket.recv_fds(self._channel, _SAID.size, 1)
            if said:
                return _SAID.unpack(said)[0], descriptors
        raise ConnectionResetError(ECONNRESET, "the process that forks them is gone")


def _raise_forks(serve: Serve, channel: socket.socket) -> int:
    """Be the nursery until nobody asks any more."""
    with tied() as tie:
        while said := channel.recv(_ASKED.size):
            number, patience_s = _ASKED.unpack(said)
            if number != _FORK:
                channel.sendall(_SAID.pack(_ended(number, patience_s)))
                continue
            try:
                process, other = fork_with_channel(tie, serve, [channel.fileno()])
            except OSError as error:
                channel.sendall(_SAID.pack(-(error.errno or EPERM)))
                continue
            with other:
                socket.send_fds(channel, [_SAID.pack(process)], [other.fileno()])
    return 0


def _ended(process: int, patience_s: float) -> int:
    """Wait for a fork of this process, which nobody has waited for yet; end it after a while."""
    until = time.monotonic() + patience_s
    while (code := ended(process, os.WNOHANG)) is None:
        if time.monotonic() >= until:
            os.kill(process, signal.SIGKILL)
            return ended(process) or 0
        time.sleep(_POLL_S)
    return code
