"""What a contender is told, and what it tells: the words between the scripts and their processes.

Nothing here imports torch, so that the script that starts the processes starts at once itself.
"""

import json
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

LR = 0.1
"""The learning rate of every contender."""

_ALIKE = 3

ENDS = "ends.json"
WEIGHTS = "weights.npy"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a round of federated averaging trains: every client one local epoch, with plain SGD.

    Attributes:
        name: What it is called on the command line.
        widths: Units of a multi-layer perceptron, inputs first; none for the CNN of McMahan et al.
        examples: How many each client has; a multiple of `batch`.
        batch: How many make a step.
        cohort: Clients a round.
        population: Clients there are; at least `cohort`.
        distinct: Clients with tensors of their own; those beyond share theirs, so that memory says
            what an engine takes and not what data does.
    """

    name: str
    widths: tuple[int, ...]
    examples: int
    batch: int
    cohort: int
    population: int
    distinct: int

    @classmethod
    def whole(
        cls, name: str, widths: tuple[int, ...], examples: int, batch: int, cohort: int
    ) -> "Workload":
        """Return a workload whose population takes part in every round, each with its own data."""
        return cls(
            name=name,
            widths=widths,
            examples=examples,
            batch=batch,
            cohort=cohort,
            population=cohort,
            distinct=cohort,
        )

    @property
    def brief(self) -> "Workload":
        """The same with as many steps as rounding leaves alike.

        With convolutions it soon makes another number the largest of a window, or one that ReLU
        lets through of one that it does not; then results part, whoever computes them.
        """
        if self.widths:
            return self
        return replace(self, examples=min(self.examples, _ALIKE * self.batch))

    @property
    def steps(self) -> int:
        """Local steps of one client in one round."""
        return self.examples // self.batch


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one fresh process, or group of processes, is to do.

    Attributes:
        workload: What to train.
        folder: Where to leave the answer.
        rounds: How many rounds to time after the first; with none, weights are kept.
        workers: Processes that share the clients, one thread each.
        executor: Roundel's ``engine.executor``; nothing to the others.
        device: ``cpu``, ``cuda`` or, for Roundel alone, ``auto``.
    """

    workload: Workload
    folder: str
    rounds: int
    workers: int = 1
    executor: str = "auto"
    device: str = "cpu"

    def text(self) -> str:
        """Return the job as the argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def of_command(cls) -> "Job":
        """Read the job that this process was started with."""
        return cls.read(sys.argv[1])

    @classmethod
    def read(cls, text: str) -> "Job":
        """Read a job as `text` wrote it."""
        said = json.loads(text)
        workload = said.pop("workload")
        widths = tuple(workload.pop("widths"))
        return cls(workload=Workload(widths=widths, **workload), **said)

    @property
    def weights(self) -> Path:
        """Where to leave the parameters before the first round and after it, shape ``(2, D)``."""
        return Path(self.folder) / WEIGHTS

    def answer(self, ends_s: Sequence[float]) -> None:
        """Write down when each round ended, by `now_s`."""
        (Path(self.folder) / ENDS).write_text(json.dumps(list(ends_s)))


def positive(text: str) -> int:
    """Read a number of the command line that counts something.

    Raises:
        ArgumentTypeError: It is less than 1.
    """
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number


def now_s() -> float:
    """Read the clock that all processes of a machine share."""
    return time.monotonic()
