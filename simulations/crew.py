"""Forks of this process that do one piece of work after another, side by side.

Each lives through many pieces, so that nothing is imported or loaded again for each of them. One
that dies costs the piece that it was at; another takes its place.
"""

import json
import os
import selectors
import signal
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from roundel.core.errors import RunFailed
from roundel.simulations.forking import LOST, Tie, ended, ending, fork_with_channel, tied

Message = Mapping[str, Any]
"""What a worker says about a piece, as JSON can hold it."""

_MOST = 1 << 16

Say = Callable[[Message], None]
Work = Callable[[int, Say], None]
"""Does the piece of this number, and says what there is to say about it. It raises nothing."""


@dataclass(frozen=True)
class Died:
    """Instead of a message: the worker of this piece is gone.

    Attributes:
        how: Such as ``"the signal SIGSEGV"``.
    """

    how: str


@dataclass(frozen=True)
class Done:
    """Instead of a message: nothing more will be said about this piece."""


def side_by_side(
    count: int, workers: int, work: Work
) -> Generator[tuple[int, Message | Died | Done]]:
    """Do pieces of work on several forks, in order as far as there is a choice.

    Args:
        count: How many pieces there are.
        workers: How many forks.
        work: What to do, in a fork.

    Yields:
        The number of a piece, and what its worker says; in the end `Done` or `Died` for each.

    Raises:
        RunFailed: A fork cannot be started.
        KeyboardInterrupt: The terminal has interrupted a worker, and so this process too.
    """
    with tied() as tie, selectors.DefaultSelector() as selector:
        crew = _Crew(tie, work, iter(range(count)), selector)
        try:
            for _ in range(workers):
                crew.begin()
            while crew.is_busy:
                for key, _ in selector.select():
                    worker: _Worker = key.data
                    yield from worker.heard()
                    if worker.gone:
                        yield from crew.lost(worker)
                    elif worker.piece is None:
                        crew.begin(worker)
        finally:
            crew.end()


class _Crew:
    """The workers of the moment, and the pieces that nobody has begun."""

    def __init__(
        self, tie: Tie, work: Work, waiting: Iterator[int], selector: selectors.BaseSelector
    ) -> None:
        self._tie, self._work, self._waiting = tie, work, waiting
        self._selector = selector
        self._workers: list[_Worker] = []

    @property
    def is_busy(self) -> bool:
        """Whether anybody is at a piece."""
        return any(worker.piece is not None for worker in self._workers)

    def begin(self, worker: "_Worker | None" = None) -> None:
        """Give the next piece, if there is one, to a worker that is free or to a new one."""
        piece = next(self._waiting, None)
        if piece is None:
            return
        if worker is None:
            worker = _Worker.hired(self._tie, self._work, self._workers)
            self._workers.append(worker)
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        worker.give(piece)

    def lost(self, worker: "_Worker") -> Iterator[tuple[int, Died]]:
        """Say what a worker was at that is gone, and replace it."""
        self._selector.unregister(worker.channel)
        self._workers.remove(worker)
        how = worker.dismissed()
        if worker.piece is not None:
            yield worker.piece, Died(how)
        self.begin()

    def end(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """A fork, seen from the process that gives it work.

    Attributes:
        channel: By which it is told numbers and says what there is to say.
        piece: What it is at; None if it is free.
        gone: Whether it will say nothing more.
    """

    def __init__(self, process: int, channel: socket.socket) -> None:
        self.channel = channel
        self.piece: int | None = None
        self.gone = False
        self._process = process
        self._rest = b""

    @classmethod
    def hired(cls, tie: Tie, work: Work, crew: list["_Worker"]) -> "_Worker":
        """Fork a worker beside others."""
        try:
            process, channel = fork_with_channel(
                tie, partial(_serve, work), [other.channel.fileno() for other in crew]
            )
        except OSError as error:
            raise RunFailed(
                f"a process for another run cannot be started: {error.strerror}; lower --jobs"
            ) from error
        return cls(process, channel)

    def give(self, piece: int) -> None:
        """Tell it what to do."""
        self.piece = piece
        try:
            self.channel.sendall(b"%d\n" % piece)
        except OSError:  # it has died meanwhile, which is heard next
            return

    def heard(self) -> Iterator[tuple[int, Message | Done]]:
        """Yield what it has said about its piece since the last time, if anything."""
        try:
            data = self.channel.recv(_MOST)
        except OSError:
            data = b""
        self.gone = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self.piece is not None:
                piece, said = self.piece, json.loads(line)
                if not said:
                    self.piece = None
                yield piece, said or Done()

    def dismissed(self) -> str:
        """Wait until it has ended; return how that was.

        Raises:
            KeyboardInterrupt: The terminal has interrupted it.
        """
        self.channel.close()
        code = ended(self._process)
        if code == -signal.SIGINT:
            raise KeyboardInterrupt
        return ending(LOST if code is None else code)

    def end(self) -> None:
        """End it, whatever it is doing."""
        os.kill(self._process, signal.SIGKILL)
        ended(self._process)
        self.channel.close()


def _serve(work: Work, channel: socket.socket) -> int:
    """Be a worker until nobody gives work any more."""

    def say(message: Message) -> None:
        channel.sendall(json.dumps(dict(message)).encode() + b"\n")

    with channel.makefile("rb") as numbers:
        for number in numbers:
            work(int(number), say)
            say({})
    return 0
