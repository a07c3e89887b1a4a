"""Who does what clients are asked for: this process, or forks of it side by side.

What comes out does not depend on which. A client is not tied to a worker: what it has kept goes
with each message to it.
"""

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
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
from roundel.simulations.forking import LOST, ending
from roundel.simulations.nursery import Nursery, nursery

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

_MOST_DEATHS = 3
"""A worker that has died so often, while none has answered in between, ends the run."""

_DYING_S = 5.0
"""How long a worker that says nothing more may take until it has ended."""

_BUFFER = 1 << 18
"""Bytes that are read or written at once."""

_BATCHES = 4
"""Into so many batches a worker's share is divided at least, so that all end at about the same
time; within one it need not wait for the next message."""


class Hired(Ask, Protocol):
    """Has messages answered, and remembers if that was not possible any more."""

    def check(self) -> None:
        """Raise what went wrong, which an app may have caught.

        Raises:
            RunFailed: Something did.
        """
        ...


@contextmanager
def hired(count: int, work: Work) -> Iterator[Hired]:
    """Yield what has messages answered; several threads may call it.

    A worker that dies costs the message that it was at, whose answer says how it died, and is
    replaced. One that dies again and again ends the run.

    Args:
        count: How many workers; with one, the work is done in this process.
        work: What they do.

    Raises:
        RunFailed: A worker cannot be started, or has died again and again.
    """
    if count == 1:
        yield _Alone(work)
        return
    with _nursery(work) as forks:
        deaths = Counter[_Worker]()
        crew = _Crew([_Worker(forks, deaths) for _ in range(count)])
        try:
            yield crew
        finally:
            crew.end()


@contextmanager
def _nursery(work: Work) -> Iterator[Nursery]:
    with ExitStack() as stack:
        try:
            forks = stack.enter_context(nursery(partial(_serve, work)))
        except OSError as error:
            raise _cannot_start(error) from error
        yield forks


def _cannot_start(error: OSError) -> RunFailed:
    return RunFailed(f"another worker cannot be started: {error.strerror}; lower --workers")


class _Alone:
    """This process, which does what it is asked for itself."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()  # apps of the older kind send each message from a thread

    def __call__(self, tasks: Sequence[Task], _timeout_s: float | None = None, /) -> list[Answer]:
        """Answer messages."""
        with self._lock, undisturbed_rng():
            return [self._work(task) for task in tasks]

    def check(self) -> None:
        """Return: nothing can go wrong that an app does not hear of."""


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
    """Workers, each free or at a batch."""

    def __init__(self, workers: Sequence["_Worker"]) -> None:
        self._all = workers
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)
        self._error: RunFailed | None = None

    def __call__(self, tasks: Sequence[Task], _timeout_s: float | None = None, /) -> list[Answer]:
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

    def check(self) -> None:
        """Raise why the run could not go on: threads of older apps tell nobody."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._all:
            worker.end()

    def _ask(self, tasks: Sequence[Task]) -> list[Answer]:
        """Have messages answered by workers that are free; by another one, where one dies."""
        answers: list[Answer] = []
        while len(answers) < len(tasks):
            self.check()
            worker = self._free.get()
            try:
                answers += worker.ask(tasks[len(answers) :])
            except RunFailed as error:
                self._error = self._error or error  # the first says most
                raise self._error from None
            finally:
                self._free.put(worker)
        return answers


class _Worker:
    """A fork, or the one that takes its place after it has died.

    Args:
        forks: Makes forks.
        deaths: How often each worker has died since one of them answered; all of them share it.

    Raises:
        RunFailed: It cannot be started.
    """

    def __init__(self, forks: Nursery, deaths: Counter["_Worker"]) -> None:
        self._forks, self._deaths = forks, deaths
        self._over = False
        self._lock = threading.Lock()  # so that nothing begins once all is over
        self._fork = _Fork(forks)

    def ask(self, tasks: Sequence[Task]) -> list[Answer]:
        """Have messages answered: all of them, or those up to the one at which it dies.

        Raises:
            RunFailed: It cannot be started, has died again and again, or is not to work any more.
        """
        fork = self._alive()
        answers: list[Answer] = []
        try:
            known = write_tasks(fork.there, tasks)
            while len(answers) < len(tasks):
                answers.append(read_answer(fork.here, known))
                self._deaths.clear()
        except (OSError, EOFError, ValueError):
            answers.append(self._lost(tasks[len(answers)]))
        return answers

    def end(self) -> None:
        """End it, whatever it is doing."""
        with self._lock:
            self._over = True
        self._fork.end()

    def _alive(self) -> "_Fork":
        """Return the fork; a new one, if it has died."""
        if self._fork.is_gone:
            self._buried()
        with self._lock:
            if self._over:
                raise RunFailed("no worker answers any more: the run is over")
            if self._fork.is_over:
                self._fork = _Fork(self._forks)
            return self._fork

    def _lost(self, task: Task) -> Answer:
        """Answer the message at which the fork has died."""
        reason = f"the process of client {task.client} was ended by {self._buried()}"
        if self._deaths[self] >= _MOST_DEATHS:
            raise RunFailed(
                f"a worker has died {_MOST_DEATHS} times in a row, and no client has replied "
                f"meanwhile: {reason}; run the app with --workers 1 to see where"
            )
        return Answer(state=task.state, trouble=Trouble(code=_CRASHED, reason=reason))

    def _buried(self) -> str:
        """Take note that the fork has died; return how that was."""
        self._deaths[self] += 1
        return self._fork.end(_DYING_S)


class _Fork:
    """A process that works, seen from the one that gives it work.

    Attributes:
        here: What it says.
        there: What it is told.

    Raises:
        RunFailed: It cannot be started.
    """

    def __init__(self, forks: Nursery) -> None:
        self._forks = forks
        try:
            self._process, self._channel = forks.fork()
        except OSError as error:
            raise _cannot_start(error) from error
        self.here, self.there = _files(self._channel)
        self._how = ""
        self._lock = threading.Lock()

    @property
    def is_gone(self) -> bool:
        """Whether it has died by itself; asked while it has nothing to say."""
        if self.is_over:
            return False
        try:
            return not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def is_over(self) -> bool:
        """Whether somebody has seen that it has ended."""
        return bool(self._how)

    def end(self, patience_s: float = 0.0) -> str:
        """End it, unless it does so by itself within a while; return how it ended."""
        with self._lock:
            if not self._how:
                try:
                    self._how = ending(self._forks.end(self._process, patience_s))
                except OSError:
                    self._how = ending(LOST)
                with suppress(OSError):  # what is left to write, nobody reads
                    self.there.close()
                self.here.close()
                self._channel.close()
            return self._how


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
