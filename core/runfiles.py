"""Read what lies in a run directory, without torch: `roundel runs` and its like start at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, RunDirectoryError

SCHEMA_VERSION = 1
CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CLIENTS = "clients.jsonl"
FAILURES = "failures"
CHECKPOINTS = "checkpoints"
STATES = "states"
MODEL = "model.safetensors"
FAILED = "failed.txt"
PARTITION = "partition.json"
SECRETS = "secrets.jsonl"
APP, FINISHED = "flower.toml", "finished.txt"
"""What only the run of a Flower app has, and has once it is over."""

AUTHORITY = "authority"
"""Where `ENVIRONMENT`, in its engine, names the authority that a run was served with."""

_KEY_BYTES = 32  # as in roundel.core.noise, which needs torch


def is_run(path: Path) -> bool:
    """Tell whether a run has begun in this directory."""
    return (path / CONFIG).is_file()


def is_app_run(path: Path) -> bool:
    """Tell whether a run of a Flower app has begun in this directory."""
    return (path / APP).is_file()


def read_run(path: Path) -> tuple[Experiment, dict[str, Any]]:
    """Read what a run ran, and on what.

    Raises:
        RunDirectoryError: The directory is not a run's, or it is damaged.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"there is no run directory {path}; check the path")
    if is_app_run(path):
        raise RunDirectoryError(
            f"{path} is the run of a Flower app, of which no more is kept than its files say; "
            f"begin with {METRICS} in it"
        )
    if not is_run(path):
        raise RunDirectoryError(
            f"{path} is not a run directory: it has no {CONFIG}; give the directory that a run "
            "printed at its end"
        )
    try:
        experiment = load_experiment(path / CONFIG)
        environment = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
        schema, _ = environment["schema_version"], environment["run_id"]
        dict(environment["engine"])
    except ConfigError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{path} is damaged: {ENVIRONMENT} cannot be read; restore it, or start a new run"
        ) from error
    if schema != SCHEMA_VERSION:
        raise RunDirectoryError(
            f"{path} was written in format {schema}, and this version of Roundel reads format "
            f"{SCHEMA_VERSION}; use the version named in its {ENVIRONMENT}"
        )
    return experiment, environment


def why_failed(path: Path) -> str | None:
    """Return the first line of why a run failed; None if it did not, or went on since."""
    try:
        said = (path / FAILED).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return said.strip().partition("\n")[0]


def authority_of(path: Path) -> Path | None:
    """Return the directory of the authority that a run was served with, if it says so."""
    try:
        engine = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))["engine"]
        return Path(engine[AUTHORITY])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whoever reads the run says what is wrong with it


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; none if it does not exist.

    A last line without its end is being written, or was when a crash came: it does not count.

    Raises:
        RunDirectoryError: A line is not a JSON object that names its round.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
                int(content["round"])
            except (ValueError, KeyError, TypeError) as error:
                raise damaged(path, number) from error
            yield content


def read_secrets(path: Path) -> dict[int, bytes]:
    """Return the keys that a run has drawn, by round; 0 for that of its clients.

    Raises:
        RunDirectoryError: The file is damaged.
    """
    secrets: dict[int, bytes] = {}
    for number, line in enumerate(read_lines(path / SECRETS), start=1):
        if isinstance(line.get("aggregate"), str):
            continue
        try:
            secrets[line["round"]] = key = bytes.fromhex(line["key"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path / SECRETS, number) from error
        if len(key) != _KEY_BYTES:
            raise damaged(path / SECRETS, number)
    return secrets


def read_bound(path: Path) -> dict[int, str]:
    """Return the hash of the aggregate that each round's noise was drawn for, by round.

    Raises:
        RunDirectoryError: A line of the file is no line.
    """
    lines = read_lines(path / SECRETS)
    return {line["round"]: line["aggregate"] for line in lines if "aggregate" in line}


def damaged(path: Path, number: int) -> RunDirectoryError:
    """Say that a line of a JSON-lines file is damaged."""
    return RunDirectoryError(f"{path} is damaged in line {number}; restore it, or start a new run")
