"""Who does what clients are asked for: this process, or forks of it side by side.

What comes out does not depend on which. A client is not tied to a worker: what it has kept goes
with each message to it.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import IO, Protocol, cast

from roundel.core.errors import RunFailed
from roundel.core.seeds import undisturbed_rng
from roundel.simulations.flowerapps.parcels import (
    Answer,
    Task,
    Trouble,
    read_answer,
    read_tasks,
    write_answer,
    write_tasks,
)
from roundel.simulations.forking import LOST, Tie, ended, ending, fork_with_channel, tied

Work = Callable[[Task], Answer]
"""Does what a client is asked for. It raises nothing, and moves the global generators."""


class Ask(Protocol):
    """Has messages answered."""

    def __call__(self, tasks: Sequence[Task], timeout_s: float | None = None, /) -> list[Answer]:
        """Return the answers to messages, each to another client, in their order.

        Args:
            tasks: The messages.
            timeout_s: After which time nobody waits any more, for whoever goes by it.
        """
        ...


_CRASHED = 8
"""Flower's code for a client whose process has died."""

_BUFFER = 1 << 18
"""Bytes that are read or written at once."""

_BATCHES = 4
"""Into so many batches a worker's share is divided at least, so that all end at about the same
time; within one it need not wait for the next message."""


@contextmanager
def hired(count: int, work: Work) -> Iterator[Ask]:
    """Yield what has messages answered; several threads may call it.

    Args:
        count: How many workers; with one, the work is done in this process.
        work: What they do.

    Raises:
        RunFailed: A worker cannot be started, or all have died.
    """
    if count == 1:
        yield _alone(work)
        return
    with tied() as tie:
        crew = _Crew()
        try:
            for _ in range(count):
                crew.hire(tie, work)
            yield crew.ask
        finally:
            crew.end()


def _alone(work: Work) -> Ask:
    lock = threading.Lock()  # apps of the older kind send every message from a thread of its own

    def ask(tasks: Sequence[Task], _timeout_s: float | None = None, /) -> list[Answer]:
        with lock, undisturbed_rng():
            return [work(task) for task in tasks]

    return ask


def batches(size: int, workers: int) -> Iterator[range]:
    """Divide messages: large batches first, ever smaller ones towards the end.

    Args:
        size: How many messages there are.
        workers: How many share them.

    >>> [len(batch) for batch in batches(20, 2)]
    [2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    start = 0
    while start < size:
        stop = start + max(1, (size - start) // (workers * _BATCHES))
        yield range(start, stop)
        start = stop


class _Crew:
    """Forks, each free or at a batch."""

    def __init__(self) -> None:
        self._all: list[_Worker] = []
        self._free: SimpleQueue[_Worker | None] = SimpleQueue()

    def hire(self, tie: Tie, work: Work) -> None:
        """Fork one more worker."""
        worker = _Worker.hired(tie, work, self._all)
        self._all.append(worker)
        self._free.put(worker)

    def ask(self, tasks: Sequence[Task], _timeout_s: float | None = None, /) -> list[Answer]:
        """Have messages answered."""
        if len(tasks) == 1:
            return self._ask(tasks)
        answers: list[Answer | None] = [None] * len(tasks)
        waiting = batches(len(tasks), len(self._all))
        lock = threading.Lock()

        def work_off() -> None:
            while True:
                with lock:
                    batch = next(waiting, None)
                if batch is None:
                    return
                for place, answer in zip(batch, self._ask([tasks[i] for i in batch]), strict=True):
                    answers[place] = answer

        with ThreadPoolExecutor(len(self._all)) as threads:
            try:
                for each in [threads.submit(work_off) for _ in self._all]:
                    each.result()
            except BaseException:
                self.end()  # else the threads would wait for answers that nobody wants
                raise
        return [answer for answer in answers if answer is not None]

    def _ask(self, tasks: Sequence[Task]) -> list[Answer]:
        """Have messages answered by workers that are free; by another one, where one dies."""
        answers: list[Answer] = []
        while len(answers) < len(tasks):
            worker = self._free.get()
            if worker is None:
                self._free.put(None)  # for the other threads that wait
                raise RunFailed("all workers have died; run the app with --workers 1 to see where")
            answers += worker.ask(tasks[len(answers) :])
            if worker.how is None:
                self._free.put(worker)
            elif all(each.how is not None for each in self._all):
                self._free.put(None)
        return answers

    def end(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._all:
            worker.end()


class _Worker:
    """A fork, seen from the process that gives it work.

    Attributes:
        how: How it died; None while it lives.
    """

    def __init__(self, process: int, channel: socket.socket) -> None:
        self.how: str | None = None
        self._process = process
        self._channel = channel
        self._here, self._there = _files(channel)

    @classmethod
    def hired(cls, tie: Tie, work: Work, crew: Sequence["_Worker"]) -> "_Worker":
        """Fork a worker beside others."""
        try:
            process, channel = fork_with_channel(
                tie, partial(_serve, work), [other.descriptor for other in crew]
            )
        except OSError as error:
            raise RunFailed(
                f"another worker cannot be started: {error.strerror}; lower --workers"
            ) from error
        return cls(process, channel)

    def ask(self, tasks: Sequence[Task]) -> list[Answer]:
        """Have messages answered: all of them, or those up to the one at which it dies."""
        answers: list[Answer] = []
        try:
            known = write_tasks(self._there, tasks)
            while len(answers) < len(tasks):
                answers.append(read_answer(self._here, known))
        except (OSError, EOFError, ValueError):
            code = ended(self._process)
            self.how = ending(LOST if code is None else code)
            lost = tasks[len(answers)]
            reason = f"the process of client {lost.client} was ended by {self.how}"
            trouble = Trouble(code=_CRASHED, reason=reason)
            answers.append(Answer(state=lost.state, trouble=trouble))
        return answers

    @property
    def descriptor(self) -> int:
        """Of its channel."""
        return self._channel.fileno()

    def end(self) -> None:
        """End it, whatever it is doing."""
        if self.how is None:
            self.how = "the end of the run"
            os.kill(self._process, signal.SIGKILL)
            ended(self._process)
        with suppress(OSError):  # what is left to write, nobody reads
            self._there.close()
        self._here.close()
        self._channel.close()


def _serve(work: Work, channel: socket.socket) -> int:
    """Be a worker until nobody gives work any more."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * _BUFFER)  # or what is allowed
    here, there = _files(channel)
    while True:
        try:
            tasks, known = read_tasks(here)
        except EOFError:
            return 0
        for task in tasks:
            write_answer(there, work(task), known)


def _files(channel: socket.socket) -> tuple[IO[bytes], IO[bytes]]:
    """Return a channel as a file to read and one to write."""
    return (
        cast(IO[bytes], channel.makefile("rb", _BUFFER)),
        cast(IO[bytes], channel.makefile("wb", _BUFFER)),
    )
