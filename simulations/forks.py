"""Further ranks of a run as forks of this process.

A fork has all that was prepared, data included, without a copy of it, and starts within
milliseconds; nothing needs to be sent to it, so the user's own objects may be anything.

A fork writes no files and is silent, and never returns to the code that called. It ends with the
run, however that ends, even by a signal that nobody can catch.
"""

import builtins
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Never

from roundel.core import errors
from roundel.core.errors import RoundelError, RunFailed
from roundel.core.ranks import ALONE, Ranks
from roundel.simulations.ranks import Lost, connected
from roundel.simulations.topologies.ring import meeting_point

Follow = Callable[[Ranks], None]
"""What a further rank does."""

_FAILED, _LOST = 1, 3
_END_S = 5.0
_POLL_S = 0.01


@contextmanager
def forked(size: int, follow: Follow, run: Path) -> Iterator[Ranks]:
    """Fork the other ranks of a run; yield all of them as rank 0, which is this process.

    Args:
        size: How many there are in all.
        follow: What each of the others does; as long as this one does the same, they are in step.
        run: The run directory, to go on with if a rank is lost.

    Raises:
        RunFailed: Another rank could not be started or was lost.
        Exception: What ended another rank.
    """
    if size == 1:
        yield ALONE
        return
    store = meeting_point()
    alive, held = os.pipe()
    scratch = tempfile.mkdtemp(prefix="roundel-ranks-")
    forks: list[_Fork] = []
    try:
        for rank in range(1, size):
            ties = _Ties(
                rank=rank, size=size, port=store.port, alive=alive, held=held, scratch=scratch
            )
            forks.append(_fork(ties, follow))
        try:
            yield connected(store, 0, size)
        except Lost as lost:
            raise (_culprit(forks, run) or lost) from None
        for fork in forks:
            fork.wait()
    finally:
        os.close(held)
        os.close(alive)
        for fork in forks:
            fork.end()
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Ties:
    """What connects a fork with the others.

    Attributes:
        rank: Which one it is.
        size: How many ranks there are.
        port: Where they meet.
        alive: A pipe that ends when rank 0 does.
        held: Its other end, which rank 0 alone must hold.
        scratch: Where its temporary files go. Rank 0 removes them, or the forks once it is gone.
    """

    rank: int
    size: int
    port: int
    alive: int
    held: int
    scratch: str


def _fork(ties: _Ties, follow: Follow) -> "_Fork":
    report = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the fork
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    try:
        with warnings.catch_warnings():
            # Newer Pythons warn of other threads, whose locks a fork would inherit: ours draw the
            # progress, which forks never do, and wait in a socket.
            warnings.simplefilter("ignore", DeprecationWarning)
            # What is garbage by now is this process's to collect: a fork has not the threads for
            # which some of it, such as the sockets of an earlier run, would wait.
            gc.freeze()
            process = os.fork()
    except OSError as error:
        gc.unfreeze()
        report.close()
        raise RunFailed(
            f"rank {ties.rank} cannot be started: {error.strerror}; lower engine.workers"
        ) from error
    if process == 0:
        _be(ties, follow, report)
    gc.unfreeze()
    return _Fork(rank=ties.rank, process=process, report=report)


def _be(ties: _Ties, follow: Follow, report: IO[bytes]) -> Never:
    """Be a fork until it ends."""
    code = [_FAILED]
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # what there is to say, rank 0 says
        _be_silent()
        os.close(ties.held)
        tempfile.tempdir = ties.scratch
        threading.Thread(target=_end_with, args=(ties,), daemon=True).start()

        def work() -> None:
            code[0] = _worked(ties, follow, report)

        # In a thread of its own: OpenMP's threads were not forked, and a main thread that used them
        # before would wait for them forever.
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    finally:
        os._exit(code[0])


def _be_silent() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - lives on


def _end_with(ties: _Ties) -> None:
    """End this process, whatever it is doing, as soon as rank 0 is gone."""
    os.read(ties.alive, 1)
    shutil.rmtree(ties.scratch, ignore_errors=True)
    os._exit(_LOST)


def _worked(ties: _Ties, follow: Follow, report: IO[bytes]) -> int:
    """Do a rank's part; return the exit code."""
    try:
        follow(connected(meeting_point(ties.port), ties.rank, ties.size))
    except Lost:
        return _LOST
    except BaseException as error:  # noqa: BLE001 - rank 0 raises it
        report.write(json.dumps(_described(error)).encode())
        report.flush()
        return _FAILED
    return 0


def _described(error: BaseException) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


@dataclass
class _Fork:
    """A fork, seen from rank 0.

    Attributes:
        rank: Which one it is.
        process: Its number.
        report: Where it writes what ended it.
        code: Its exit code, negative if it was a signal; None while it runs.
    """

    rank: int
    process: int
    report: IO[bytes]
    code: int | None = field(default=None, init=False)

    def wait(self, options: int = 0) -> None:
        """Wait until it has ended."""
        if self.code is None:
            try:
                ended, status = os.waitpid(self.process, options)
            except ChildProcessError:  # somebody else has waited for it
                ended, status = self.process, 0
            if ended:
                self.code = os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """End it if it still runs."""
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            self.wait()
        self.report.close()

    def reason(self, run: Path) -> BaseException | None:
        """Return what ended it by itself, or None if it only lost others or still runs."""
        self.wait(os.WNOHANG)
        if self.code in (None, 0, _LOST):
            return None
        self.report.seek(0)
        if said := self.report.read():
            return _raised(self.rank, json.loads(said))
        if self.code == -signal.SIGINT:  # the terminal interrupts this process, too
            return KeyboardInterrupt()
        return RunFailed(
            f"rank {self.rank} (process {self.process}) was ended by {_name(self.code)}; what is "
            f"recorded stays, and `roundel resume {run}` goes on"
        )


def _name(code: int) -> str:
    """Say what an exit code without a report means."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    more = ", as systems do that run out of memory" if -code == signal.SIGKILL else ""
    return f"the signal {name}{more}"


def _raised(rank: int, said: Mapping[str, str]) -> BaseException:
    """Return an error as it was raised on another rank."""
    name, message = said["type"], said["message"]
    kind: Any = getattr(errors, name, getattr(builtins, name, None))
    try:
        error: BaseException = kind(message)
    except TypeError:  # an exception of the user's own, or one that wants more than a message
        error = RunFailed(f"rank {rank} raised {name}: {message}")
    if not isinstance(error, RoundelError):
        error.add_note(f"It was raised on rank {rank}:\n\n{said['traceback']}")
    return error


def _culprit(forks: Sequence[_Fork], run: Path) -> BaseException | None:
    """Return why a rank has ended, once it has had the time to."""
    limit = time.monotonic() + _END_S
    while time.monotonic() < limit:
        for fork in forks:
            if reason := fork.reason(run):
                return reason
        if all(fork.code is not None for fork in forks):
            return None
        time.sleep(_POLL_S)
    return None
