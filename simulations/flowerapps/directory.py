"""The run directory of a Flower app.

    flower.toml          the app, its settings as it ran with, the seed, clients and workers
    environment.json     versions, engine
    metrics.jsonl        one object a round, as far as rounds can be told
    failures/            tracebacks of clients that failed
    model.safetensors    the final arrays
    failed.txt           why the run failed, if it did

It is not one of an experiment: there is no experiment that could be resumed or replayed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from roundel.core.errors import RunDirectoryError
from roundel.core.files import LineFile, write_atomic, writing
from roundel.core.runfiles import ENVIRONMENT, FAILED, FAILURES, METRICS, MODEL
from roundel.simulations.flowerapps.seen import Exchange, Line

APP = "flower.toml"


class AppDirectory:
    """The directory of one run of an app.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path, app: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Make it.

        Raises:
            RunDirectoryError: Something is there already, or it cannot be written.
        """
        self.path = path
        with writing(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunDirectoryError(
                    f"{path} is not an empty directory; choose another one with --out"
                )
            path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / APP, tomli_w.dumps(app).encode())
        write_atomic(path / ENVIRONMENT, json.dumps(environment, indent=2).encode() + b"\n")
        self._metrics = LineFile(path / METRICS)

    def add_round(self, line: Line) -> None:
        """Write down a round."""
        self._metrics.append([line])

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

    def fail(self, reason: str) -> None:
        """Write down why the run failed."""
        write_atomic(self.path / FAILED, f"{reason}\n".encode())

    def close(self) -> None:
        """Close its files."""
        self._metrics.close()
