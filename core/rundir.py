"""The run directory: everything a run leaves behind, and all that is needed to go on with it.

    config.toml          the resolved experiment
    environment.json     versions, engine, schema version
    metrics.jsonl        one object a round
    clients.jsonl        one object a client and round
    failures/            tracebacks of clients that failed
    checkpoints/         round-000040.safetensors, the newest few
    states/              client states that are too many for memory; checkpoints name them
    federation.db        of a run over nodes: what was accepted since the last checkpoints
    spool/               the same, where it is large
    secrets.jsonl        keys of noise that protects clients, if the strategy adds any, and the
                         hashes of what it was added to
    failed.txt           why the run failed, if it did, until it goes on
    model.safetensors    the final model, once the run has finished

Lines are only ever added, and a round's line in ``metrics.jsonl`` is the last thing written about
it: what a crash leaves behind it is dropped when the run is opened again. Should the power fail,
lines about clients may be lost that were written before it; such a round is dropped likewise, and
computed again.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from torch import Tensor

from roundel.core.config import Experiment
from roundel.core.configfile import dump_experiment
from roundel.core.errors import RunDirectoryError, RunFailed
from roundel.core.files import PARTIAL, LineFile, check_empty, sync_directory, write_atomic, writing
from roundel.core.noise import draw_secret
from roundel.core.records import ClientRecord, RoundReport
from roundel.core.runfiles import (
    CHECKPOINTS,
    CLIENTS,
    CONFIG,
    ENVIRONMENT,
    FAILED,
    FAILURES,
    METRICS,
    MODEL,
    SECRETS,
    damaged,
    is_run,
    read_bound,
    read_lines,
    read_run,
    read_secrets,
)
from roundel.core.tensorbytes import lay_out
from roundel.core.tensorfiles import sealed, unseal

_WITHOUT_CLIENTS = ("centralised", "all-reduce")
"""Topologies in which there is nothing to say about single clients."""


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
        self._secrets: dict[int, bytes] = {}
        self._bound: dict[int, str] = {}
        self._lock = _lock(path)
        try:
            with writing(path):
                (path / FAILED).unlink(missing_ok=True)
                self.hashes.update(_recorded(path, experiment))
                _drop_leftovers(path, last=len(self.hashes))
                self._secrets.update(_whole_secrets(path))
                self._bound.update(read_bound(path))
            self._metrics = LineFile(path / METRICS)
            self._clients = LineFile(path / CLIENTS)
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def create(
        cls, path: Path, experiment: Experiment, environment: Mapping[str, Any]
    ) -> "RunDirectory":
        """Make the directory of a new run.

        Raises:
            RunDirectoryError: Something is there already, or it cannot be written.
        """
        with writing(path):
            if is_run(path):
                raise RunDirectoryError(
                    f"{path} already holds a run; go on with it by `roundel resume {path}`, or "
                    "choose another directory with --out"
                )
            check_empty(path, "choose another one with --out")
            was_there = path.exists()
            (path / CHECKPOINTS).mkdir(parents=True)  # fails if another process is at it too
        about = json.dumps(dict(environment), indent=2).encode() + b"\n"
        try:
            write_atomic(path / ENVIRONMENT, about)
            write_atomic(path / CONFIG, dump_experiment(experiment).encode())
        except BaseException:
            _remove(path, keep=was_there)
            raise
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
        self.add_clients(report.clients, report.failures)
        self._metrics.append([report.record.line()])
        self.hashes[report.record.round] = report.record.params_sha256

    def add_clients(self, clients: Sequence[ClientRecord], failures: Mapping[int, str]) -> None:
        """Write down what became of the clients of a round that is not recorded yet.

        Without a round's own line to follow, these are dropped when the run is opened again.

        Args:
            clients: One record for each client of the cohort.
            failures: Client number to traceback.
        """
        new = [client for client in clients if client.round not in self.hashes]
        with writing(self.path / FAILURES):
            for client in new:
                if traceback := failures.get(client.client):
                    (self.path / FAILURES).mkdir(exist_ok=True)
                    name = f"round-{client.round:06d}-client-{client.client}.txt"
                    (self.path / FAILURES / name).write_text(traceback, encoding="utf-8")
        self._clients.append(client.line() for client in new)

    def secret(self, round: int) -> bytes:
        """Return the key of a round's noise, or for round 0 that of the clients.

        It is drawn once, and on disk before it is used, so that a run that is computed again gets
        the same. Whoever has the file can take the noise off: only its owner may read it.

        Raises:
            RunDirectoryError: The round is recorded and its key is gone.
        """
        if round not in self._secrets:
            if self.hashes and round <= max(self.hashes):
                raise RunDirectoryError(
                    f"{self.path / SECRETS} lacks the key of round {round}, which is recorded: the "
                    "noise cannot be drawn again; put the file back, or start a new run"
                )
            key = draw_secret()
            self._keep({"round": round, "key": key.hex()})
            self._secrets[round] = key
        return self._secrets[round]

    def bind_noise(self, round: int, sha256: str) -> None:
        """Make sure that a round's noise protects one aggregate only, whatever crashes.

        The hash is on disk before this returns, and so before a model can leave.

        Args:
            round: The round.
            sha256: Of the aggregate, before noise.

        Raises:
            RunFailed: The noise was drawn for another one.
        """
        if round not in self._bound:
            self._keep({"round": round, "aggregate": sha256})
            self._bound[round] = sha256
        if self._bound[round] != sha256:
            raise RunFailed(
                f"round {round} was computed again and its updates add up to something else than "
                "what may have been released with noise, and to release both would cost more "
                "privacy than the account says; resume with the clients that answered then, or "
                "start a new run"
            )

    def _keep(self, line: Mapping[str, Any]) -> None:
        """Add a line to the secrets; it is on disk when this returns."""
        with writing(self.path / SECRETS):
            (self.path / SECRETS).touch(mode=0o600)
            with (self.path / SECRETS).open("ab") as file:
                file.write(f"{json.dumps(dict(line))}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self.path)

    def save_checkpoint(
        self, round: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Write a checkpoint; what it builds on reaches the disk before it does."""
        self._clients.sync()
        self._metrics.sync()
        path = self.path / CHECKPOINTS / f"round-{round:06d}.safetensors"
        write_atomic(path, *sealed(tensors, metadata))
        with writing(path):
            for old in checkpoint_files(self.path)[: -self.experiment.checkpoint.keep]:
                old.unlink()
            sync_directory(path.parent)

    def save_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the final model; from then on the run is finished."""
        write_atomic(self.path / MODEL, *lay_out(tensors, {"format": "pt"}))

    def close(self) -> None:
        """Close all files and let other processes in."""
        self._metrics.close()
        self._clients.close()
        self._lock.close()

    def __enter__(self) -> Self:
        """Return itself; the directory is closed at the end of the block."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Close the directory; if the run has failed, write down why."""
        try:
            if isinstance(error, RunFailed):
                write_atomic(self.path / FAILED, f"{error}\n".encode())
        finally:
            self.close()


def read_checkpoints(path: Path) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Yield tensors and metadata of each checkpoint of a run that is whole, the newest first."""
    for file in reversed(checkpoint_files(path)):
        try:
            tensors, metadata = unseal(file.read_bytes())
        except (OSError, ValueError):
            continue
        yield tensors, metadata


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


def _recorded(path: Path, experiment: Experiment) -> dict[int, str]:
    """Return the hash of each round that is recorded: of all from 1 to the last.

    A round some of whose clients' lines are missing is not. Only a power cut can have come between,
    so a finished run, all of which is on disk, is taken as it is.
    """
    hashes: dict[int, str] = {}
    about = Counter(line["round"] for line in read_lines(path / CLIENTS))
    told = experiment.topology.kind not in _WITHOUT_CLIENTS
    finished = (path / MODEL).exists()
    for number, line in enumerate(read_lines(path / METRICS), start=1):
        if line["round"] != number or not isinstance(line.get("params_sha256"), str):
            raise damaged(path / METRICS, number)
        if not finished and about[number] < _clients_of(line, told=told):
            break
        hashes[number] = line["params_sha256"]
    return hashes


def _clients_of(line: Mapping[str, Any], *, told: bool) -> int:
    """Return how many lines about clients belong to a round's line.

    Args:
        line: The round's.
        told: Whether each client that trains has a line.
    """
    judged = line.get("clients", {}).get("failures", 0)
    return int(judged) + (int(line.get("cohort", 0)) if told else 0)


def _drop_leftovers(path: Path, last: int) -> None:
    """Remove what a crash left behind of rounds after the last one that is recorded."""
    for file in (path / METRICS, path / CLIENTS):
        if file.exists():
            os.truncate(file, _end_of_round(file, last))
    for partial in path.rglob(PARTIAL):
        partial.unlink()


def _whole_secrets(path: Path) -> dict[int, bytes]:
    """Return the keys that were written down, and cut off one that a crash left half-written."""
    file = path / SECRETS
    if file.exists():
        data = file.read_bytes()
        os.truncate(file, data.rfind(b"\n") + 1)
    return read_secrets(path)


def _end_of_round(path: Path, last: int) -> int:
    """Return how many bytes of a JSON-lines file are about rounds up to the last."""
    end = 0
    with path.open("rb") as file:
        for raw, line in zip(file, read_lines(path), strict=False):
            if line["round"] > last:
                break
            end += len(raw)
    return end


def _remove(path: Path, *, keep: bool) -> None:
    """Take back a directory in which no run has begun."""
    (path / ENVIRONMENT).unlink(missing_ok=True)
    (path / CHECKPOINTS).rmdir()
    if not keep:
        path.rmdir()


def checkpoint_files(path: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first, whole or not."""
    return sorted((path / CHECKPOINTS).glob("round-*.safetensors"))
