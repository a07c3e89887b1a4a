"""Further ranks of a run as forks of this process, which write no files.

See `roundel.simulations.forking` for what a fork is.
"""

import builtins
import json
import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from roundel.core import errors
from roundel.core.errors import RoundelError, RunFailed
from roundel.core.ranks import ALONE, Lost, Ranks
from roundel.simulations.forking import LOST, Tie, ended, ending, fork_with_channel, tied
from roundel.simulations.kin import Kin, Windows

Follow = Callable[[Ranks], None]
"""What a further rank does."""

_FAILED = 1
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
    scratch = Path(tempfile.mkdtemp(prefix="roundel-ranks-"))
    forks: list[_Fork] = []
    try:
        with tied() as tie:
            place = _Place(size=size, scratch=scratch, windows=Windows(size))
            while len(forks) < size - 1:
                forks.append(_forked(forks, place, tie, follow))
            try:
                yield Kin(0, size, [each.channel for each in forks], place.windows)
            except Lost as lost:
                raise (_culprit(forks, run) or lost) from None
            for each in forks:
                each.wait()
    finally:
        for each in forks:
            each.end()
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What forks share.

    Attributes:
        size: How many there are.
        scratch: Where forks put temporary files. Rank 0 removes it, or the forks once that is gone.
        windows: What they show each other.
    """

    size: int
    scratch: Path
    windows: Windows


def _forked(before: Sequence["_Fork"], place: _Place, tie: Tie, follow: Follow) -> "_Fork":
    rank = len(before) + 1
    report = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the fork

    def work(channel: socket.socket) -> int:
        tempfile.tempdir = str(place.scratch)
        return _worked(Kin(rank, place.size, [channel], place.windows), follow, report)

    def last() -> None:
        shutil.rmtree(place.scratch, ignore_errors=True)

    try:
        others = [each.channel.fileno() for each in before]
        process, channel = fork_with_channel(tie, work, others, last)
    except OSError as error:
        report.close()
        raise RunFailed(
            f"rank {rank} cannot be started: {error.strerror}; lower engine.workers"
        ) from error
    return _Fork(rank=rank, process=process, channel=channel, report=report)


def _worked(ranks: Ranks, follow: Follow, report: IO[bytes]) -> int:
    """Do a rank's part; return the exit code."""
    try:
        follow(ranks)
    except Lost:
        return LOST
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
        channel: To it.
        report: Where it writes what ended it.
        code: Its exit code, negative if it was a signal; None while it runs.
    """

    rank: int
    process: int
    channel: socket.socket
    report: IO[bytes]
    code: int | None = field(default=None, init=False)

    def wait(self, options: int = 0) -> None:
        """Wait until it has ended."""
        if self.code is None:
            self.code = ended(self.process, options)

    def end(self) -> None:
        """End it if it still runs."""
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            self.wait()
        self.channel.close()
        self.report.close()

    def reason(self, run: Path) -> BaseException | None:
        """Return what ended it by itself, or None if it only lost others or still runs."""
        self.wait(os.WNOHANG)
        if self.code in (None, 0, LOST):
            return None
        self.report.seek(0)
        if said := self.report.read():
            return _raised(self.rank, json.loads(said))
        if self.code == -signal.SIGINT:  # the terminal interrupts this process, too
            return KeyboardInterrupt()
        return RunFailed(
            f"rank {self.rank} (process {self.process}) was ended by {ending(self.code)}; what is "
            f"recorded stays, and `roundel resume {run}` goes on"
        )


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
        for each in forks:
            if reason := each.reason(run):
                return reason
        if all(each.code is not None for each in forks):
            return None
        time.sleep(_POLL_S)
    return None
