"""Ordinary runs, many of them: one after another in this process, or side by side on forks of it.

What has finished is left as it is, what was interrupted goes on where it stopped, and what fails
says why in its own directory and leaves the others alone. Several processes may be at the same runs
at once: each run is computed by the one that comes first.
"""

import fcntl
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from roundel.core.config import Experiment
from roundel.core.errors import RoundelError
from roundel.core.files import write_atomic, writing
from roundel.core.history import History, read_history
from roundel.core.records import RoundReport
from roundel.core.runfiles import FAILED, MODEL, is_run
from roundel.core.usercode import story
from roundel.server.run import OnRound
from roundel.simulations.crew import Died, Message, Say, side_by_side
from roundel.simulations.figures import figure_of
from roundel.simulations.simulate import resume, simulate

Status = Literal["finished", "failed", "elsewhere"]

_GRACE_S = 1.0
"""How long a run may be another process's before it is left to it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that is wanted.

    Attributes:
        path: Its directory.
        experiment: What it runs.
        metrics: The figures that are told: keys of a round's line, where dots lead inside.
    """

    path: Path
    experiment: Experiment
    metrics: Sequence[str] = ("accuracy", "loss")

    @property
    def is_finished(self) -> bool:
        """Whether it was computed to its end."""
        return is_run(self.path) and (self.path / MODEL).exists()


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A run has done a round.

    Attributes:
        job: Which of the jobs, from 0.
        round: The round, from 1.
        seconds: How long it took; None if it was recorded before and computed again.
        metrics: Its figures.
    """

    job: int
    round: int
    seconds: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """A run has ended.

    Attributes:
        job: Which of the jobs, from 0.
        status: ``elsewhere`` if another process is at it.
        seconds: How long it took here.
        rounds: How many it has recorded.
        metrics: The figures of its last round.
        reason: Why it failed, in one sentence.
    """

    job: int
    status: Status
    seconds: float = 0.0
    rounds: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    reason: str = ""


Event = RoundDone | RunEnded
OnEvent = Callable[[Event], None]


def run_jobs(jobs: Sequence[Job], workers: int, on_event: OnEvent) -> None:
    """Run what is not finished, in order as far as there is a choice.

    Args:
        jobs: The runs.
        workers: How many are computed at once; 1 for this process alone.
        on_event: Hears of each round, and of the end of each run that was not finished before.

    Raises:
        KeyboardInterrupt: The user interrupts; what is recorded stays.
        RunFailed: No further process can be started.
    """
    left = [number for number, job in enumerate(jobs) if not job.is_finished]
    if workers == 1:
        for number in left:
            on_event(_run(number, jobs[number], on_event))
        return

    def work(place: int, say: Say) -> None:
        number = left[place]
        say(_packed(_run(number, jobs[number], lambda event: say(_packed(event)))))

    for place, said in side_by_side(len(left), workers, work):
        if isinstance(said, Died):
            on_event(_lost(left[place], jobs[left[place]], said.how))
        elif isinstance(said, Mapping):
            on_event(_unpacked(said))


def _run(number: int, job: Job, on_event: OnEvent) -> RunEnded:
    """Run a job to its end, whatever that is."""

    def on_round(report: RoundReport) -> None:
        record = report.record
        seconds = None if report.recomputed else record.seconds
        on_event(RoundDone(job=number, round=record.round, seconds=seconds, metrics=record.metrics))

    began = time.perf_counter()
    with _claimed(job.path) as is_ours:
        if not is_ours:
            return RunEnded(job=number, status="elsewhere")
        try:
            history = _computed(job, on_round)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it runs the user's code
            return RunEnded(
                job=number,
                status="failed",
                seconds=time.perf_counter() - began,
                reason=_failed(job, _told(error)),
            )
    return _finished(number, job, history, time.perf_counter() - began)


def _computed(job: Job, on_round: OnRound) -> History:
    """Begin a run, or go on with it."""
    if is_run(job.path):
        return resume(job.path, on_round=on_round)
    if job.path.exists():  # it failed before it began, or was killed while it did
        shutil.rmtree(job.path)
    return simulate(job.experiment, out=job.path, on_round=on_round)


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Yield whether a run is this process's to compute, and no other's meanwhile."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("wb")
    with file:
        yield _is_locked(file)


def _is_locked(file: BinaryIO) -> bool:
    """Lock a file for this process, unless another one has it and keeps it for a while.

    The workers of a comparison that was killed take a moment to find that out.
    """
    until = time.monotonic() + _GRACE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_GRACE_S / 50)
        else:
            return True


def _told(error: BaseException) -> str:
    """Say what ended a run: a sentence, and the traceback if it is an error of nobody's making."""
    if isinstance(error, RoundelError):
        return str(error)
    return f"{story(error)}\n\n{''.join(traceback.format_exception(error)).rstrip()}"


def _failed(job: Job, why: str) -> str:
    """Write down why a run has failed; return the sentence."""
    with writing(job.path):
        job.path.mkdir(parents=True, exist_ok=True)
    write_atomic(job.path / FAILED, f"{why}\n".encode())
    return why.partition("\n")[0]


def _lost(number: int, job: Job, how: str) -> RunEnded:
    """Say that the process of a run has died, and write it down unless all was done by then."""
    if job.is_finished:
        return _finished(number, job, read_history(job.path), 0.0)
    why = f"its process was ended by {how}"
    return RunEnded(job=number, status="failed", reason=_failed(job, why))


def _finished(number: int, job: Job, history: History, seconds: float) -> RunEnded:
    return RunEnded(
        job=number,
        status="finished",
        seconds=seconds,
        rounds=len(history.rounds),
        metrics=_figures(job, history.rounds[-1]),
    )


def _figures(job: Job, line: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a round that are told and were measured."""
    found = {key: figure_of(line, key) for key in job.metrics}
    return {key: value for key, value in found.items() if value is not None}


def _packed(event: Event) -> Message:
    return {"of": type(event).__name__, **asdict(event)}


def _unpacked(message: Message) -> Event:
    fields = dict(message)
    return RoundDone(**fields) if fields.pop("of") == "RoundDone" else RunEnded(**fields)
