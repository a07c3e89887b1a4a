"""The run directory: everything a run leaves behind, and all that is needed to go on with it.

    config.toml          the resolved experiment
    environment.json     versions, engine, schema version
    metrics.jsonl        one object a round
    clients.jsonl        one object a client and round
    failures/            tracebacks of clients that failed
    checkpoints/         round-000040.safetensors, the newest few
    model.safetensors    the final model, once the run has finished

Lines are only ever added, and a round's line in ``metrics.jsonl`` is the last thing written about
it: what a crash leaves behind it is dropped when the run is opened again.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from roundel.core.config import Experiment
from roundel.core.configfile import dump_experiment, load_experiment
from roundel.core.environment import SCHEMA_VERSION
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.files import LineFile, sync_directory, write_atomic, writing
from roundel.core.records import RoundReport

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CLIENTS = "clients.jsonl"
FAILURES = "failures"
CHECKPOINTS = "checkpoints"
MODEL = "model.safetensors"


class RunDirectory:
    """One run's directory, open for writing by this process alone.

    Attributes:
        path: Where it is.
        experiment: The resolved experiment.
        environment: What it runs on.
        hashes: Round to the parameter hash that is recorded for it.
    """

    def __init__(self, path: Path, experiment: Experiment, environment: Mapping[str, Any]) -> None:
        self.path = path
        self.experiment = experiment
        self.environment = environment
        self.hashes: dict[int, str] = {}
        self._lock = _lock(path)
        with writing(path):
            _drop_torn_line(path / METRICS)
            for line in read_lines(path / METRICS):
                self.hashes[line["round"]] = line["params_sha256"]
            _drop_rounds_after(path / CLIENTS, max(self.hashes, default=0))
        self._metrics = LineFile(path / METRICS)
        self._clients = LineFile(path / CLIENTS)

    @classmethod
    def create(
        cls, path: Path, experiment: Experiment, environment: Mapping[str, Any]
    ) -> "RunDirectory":
        """Make the directory of a new run.

        Raises:
            RunDirectoryError: Something is there already, or it cannot be written.
        """
        if is_run(path):
            raise RunDirectoryError(
                f"{path} already holds a run; go on with it by `roundel resume {path}`, or choose "
                "another directory with --out"
            )
        with writing(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunDirectoryError(
                    f"{path} is not an empty directory; choose another one with --out"
                )
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        write_atomic(path / ENVIRONMENT, json.dumps(dict(environment), indent=2).encode() + b"\n")
        write_atomic(path / CONFIG, dump_experiment(experiment).encode())
        return cls(path, experiment, environment)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open the directory of an earlier run to go on with it.

        Raises:
            RunDirectoryError: It is not one, it is damaged, or another process writes to it.
        """
        experiment, environment = read_run(path)
        return cls(path, experiment, environment)

    @property
    def finished(self) -> bool:
        """Whether the run has written its final model."""
        return (self.path / MODEL).exists()

    def add_round(self, report: RoundReport) -> None:
        """Write down a round."""
        number = report.record.round
        with writing(self.path / FAILURES):
            for client_id, traceback in report.failures.items():
                (self.path / FAILURES).mkdir(exist_ok=True)
                name = f"round-{number:06d}-client-{client_id}.txt"
                (self.path / FAILURES / name).write_text(traceback, encoding="utf-8")
        self._clients.append(client.line() for client in report.clients)
        self._metrics.append([report.record.line()])
        self.hashes[number] = report.record.params_sha256

    def save_checkpoint(
        self, round: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Write a checkpoint; what it builds on reaches the disk before it does."""
        self._clients.sync()
        self._metrics.sync()
        path = self.path / CHECKPOINTS / f"round-{round:06d}.safetensors"
        write_atomic(path, _pack(tensors, metadata))
        with writing(path):
            for old in _checkpoints(self.path)[: -self.experiment.checkpoint.keep]:
                old.unlink()
            sync_directory(path.parent)

    def checkpoints(self) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
        """Yield tensors and metadata of each readable checkpoint, the newest first."""
        for path in reversed(_checkpoints(self.path)):
            try:
                data = path.read_bytes()
                yield load(data), _metadata(data)
            except (OSError, SafetensorError, ValueError):
                continue

    def save_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the final model; from then on the run is finished."""
        write_atomic(self.path / MODEL, _pack(tensors, {"format": "pt"}))

    def close(self) -> None:
        """Close all files and let other processes in."""
        self._metrics.close()
        self._clients.close()
        self._lock.close()

    def __enter__(self) -> Self:
        """Return itself; the directory is closed at the end of the block."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the directory."""
        self.close()


def is_run(path: Path) -> bool:
    """Tell whether a run has begun in this directory."""
    return (path / CONFIG).is_file()


def read_run(path: Path) -> tuple[Experiment, dict[str, Any]]:
    """Read what a run ran, and on what.

    Raises:
        RunDirectoryError: The directory is not a run's, or it is damaged.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"there is no run directory {path}; check the path")
    if not is_run(path):
        raise RunDirectoryError(
            f"{path} is not a run directory: it has no {CONFIG}; give the directory that a run "
            "printed at its end"
        )
    try:
        experiment = load_experiment(path / CONFIG)
        environment = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
        schema = environment["schema_version"]
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    if schema != SCHEMA_VERSION:
        raise RunDirectoryError(
            f"{path} was written in format {schema}, and this version of Roundel reads format "
            f"{SCHEMA_VERSION}; use the version named in its {ENVIRONMENT}"
        )
    return experiment, environment


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; none if it does not exist.

    Raises:
        RunDirectoryError: A line is not JSON.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RunDirectoryError(
                    f"{path} is damaged in line {number}; restore it, or start a new run"
                ) from error


def _lock(path: Path) -> IO[bytes]:
    with writing(path):
        file = (path / ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunDirectoryError(
            f"{path} is in use by another process; wait for it or end it"
        ) from error
    return file


def _drop_torn_line(path: Path) -> None:
    """Cut off what a crash left of a line that was being written."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _drop_rounds_after(path: Path, last: int) -> None:
    """Cut off the lines of a round that has no line in the metrics."""
    _drop_torn_line(path)
    keep = 0
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if json.loads(line)["round"] > last:
                break
            keep += len(line)
    os.truncate(path, keep)


def _checkpoints(path: Path) -> list[Path]:
    return sorted((path / CHECKPOINTS).glob("round-*.safetensors"))


def _pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    owned = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    packed: bytes = save(owned, dict(metadata))
    return packed


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
