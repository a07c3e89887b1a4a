"""The run directory of a Flower app.

    flower.toml          the app, its settings as it ran with, the seed and the number of clients
    environment.json     versions, engine
    metrics.jsonl        one object a round, as far as rounds can be told
    failures/            tracebacks of clients that failed
    model.safetensors    the final arrays
    failed.txt           why the run failed, if it did, until it goes on
    finished.txt         how many rounds it had, once it is over
    federation.db        of a run over nodes: what was asked, and every reply
    spool/               the same, where it is large

It is not one of an experiment: there is no experiment that could be resumed or replayed. Only a run
over nodes, whose replies are all there, can go on.
"""

import fcntl
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import tomli_w

from roundel.core.errors import RunDirectoryError
from roundel.core.files import LineFile, check_empty, write_atomic, writing
from roundel.core.runfiles import (
    APP,
    ENVIRONMENT,
    FAILED,
    FAILURES,
    FINISHED,
    METRICS,
    MODEL,
)
from roundel.simulations.flowerapps.seen import Exchange, Line


class AppDirectory:
    """The directory of one run of an app, open for writing by this process alone.

    Attributes:
        path: Where it is.
        app: What was run.
        environment: What it runs on.
        rounds: How many rounds are written down.
    """

    def __init__(self, path: Path, app: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Hold it; `create` and `open` are what to call."""
        self.path = path
        self.app = app
        self.environment = environment
        self._lock = _locked(path / APP)
        try:
            with writing(path):
                self.rounds = _whole_lines(path / METRICS)
            self._metrics = LineFile(path / METRICS)
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def create(
        cls, path: Path, app: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> "AppDirectory":
        """Make it.

        Raises:
            RunDirectoryError: Something is there already, or it cannot be written.
        """
        with writing(path):
            check_empty(path, "choose another one with --out")
            path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / ENVIRONMENT, json.dumps(environment, indent=2).encode() + b"\n")
        write_atomic(path / APP, tomli_w.dumps(app).encode())
        return cls(path, app, environment)

    @classmethod
    def open(cls, path: Path) -> "AppDirectory":
        """Open that of an earlier run to go on with it.

        Raises:
            RunDirectoryError: It is not one, it is damaged, or another process writes to it.
        """
        try:
            app = tomllib.loads((path / APP).read_text(encoding="utf-8"))
            environment = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
            str(environment["run_id"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{path} is damaged: its {APP} or {ENVIRONMENT} cannot be read; restore them, or "
                "start a new run"
            ) from error
        return cls(path, app, environment)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, with final arrays or without."""
        return (self.path / FINISHED).exists()

    def go_on(self) -> None:
        """Forget why the run failed, now that it does go on."""
        with writing(self.path):
            (self.path / FAILED).unlink(missing_ok=True)

    def add_round(self, line: Line) -> None:
        """Write down a round."""
        self._metrics.append([line])
        self.rounds += 1

    def add_failures(self, exchange: Exchange, number: int) -> None:
        """Write down the tracebacks of an exchange.

        Args:
            exchange: The messages.
            number: The round.
        """
        with writing(self.path / FAILURES):
            for task, answer in zip(exchange.tasks, exchange.answers, strict=True):
                if answer.trouble is None:
                    continue
                (self.path / FAILURES).mkdir(exist_ok=True)
                name = f"round-{number:06d}-client-{task.client}-message-{task.number}.txt"
                text = answer.trouble.traceback or f"{answer.trouble.reason}\n"
                (self.path / FAILURES / name).write_text(text, encoding="utf-8")

    def save_model(self, data: bytes) -> None:
        """Write the final arrays."""
        write_atomic(self.path / MODEL, data)

    def finish(self) -> None:
        """Write down that the run has come to its end."""
        write_atomic(self.path / FINISHED, f"{self.rounds}\n".encode())

    def fail(self, reason: str) -> None:
        """Write down why the run failed."""
        write_atomic(self.path / FAILED, f"{reason}\n".encode())

    def close(self) -> None:
        """Close its files, and let other processes use it."""
        self._metrics.close()
        self._lock.close()


def _locked(path: Path) -> IO[bytes]:
    """Hold a file; whoever else tries is refused."""
    with writing(path):
        file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunDirectoryError(
            f"{path.parent} is in use by another process; wait for it or end it"
        ) from error
    return file


def _whole_lines(path: Path) -> int:
    """Count the lines of a file, and cut off what a crash has left behind the last one."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    os.truncate(path, data.rfind(b"\n") + 1)
    return data.count(b"\n")
