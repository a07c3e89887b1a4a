"""Runs in the forms of Weights & Biases and of MLflow, as if these had watched them.

Both are other people's code, which is imported here and nowhere else. They write below the given
directory and send nothing, unless the user's environment names a server.
"""

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from roundel.core.errors import ConfigError, RunFailed
from roundel.core.history import History
from roundel.core.usercode import user_code
from roundel.reports.exported import Exported, began_s, ends_s, plain_settings
from roundel.reports.scalars import scalars

PROJECT = "roundel"
"""What runs belong to that belong to no comparison."""

_MOST_METRICS, _MOST_PARAMS = 1_000, 100
"""What MLflow takes at once."""
_LONGEST = 500
"""Characters of a value that every version of MLflow takes."""


def export_wandb(runs: Sequence[Exported], out: Path) -> None:
    """Write runs as Weights & Biases keeps them, for ``wandb sync``.

    ``WANDB_MODE=online`` sends them at once.

    Args:
        runs: Each is read when it is its turn.
        out: Where its folder ``wandb`` goes.

    Raises:
        RunDirectoryError: A run is damaged.
        RunFailed: It failed.
    """
    wandb = _imported("wandb", "WANDB_ERROR_REPORTING", "false")
    for run in runs:
        history = run.history()
        with user_code(f"writing {run.name} by wandb", RunFailed):
            log = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=run.name,
                group=run.group or None,
                config={**plain_settings(history), **run.about},
                dir=str(out),
                mode=os.environ.get("WANDB_MODE") or "offline",
                settings=wandb.Settings(console="off", silent=True),
            )
            for line in history.rounds:
                log.log(scalars(line), step=line["round"])
            log.finish()


def export_mlflow(runs: Sequence[Exported], out: Path) -> None:
    """Write runs into a database of MLflow, ``mlflow.db``.

    ``MLFLOW_TRACKING_URI`` names another place.

    Args:
        runs: Each is read when it is its turn.
        out: Where the database goes.

    Raises:
        RunDirectoryError: A run is damaged.
        RunFailed: It failed.
    """
    _imported("mlflow", "MLFLOW_DISABLE_TELEMETRY", "true")
    tracking: Any = import_module("mlflow.tracking")
    here = f"sqlite:///{out.absolute() / 'mlflow.db'}"
    with user_code("opening the database of mlflow", RunFailed):
        client = tracking.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or here)
    for run in runs:
        history = run.history()
        with user_code(f"writing {run.name} by mlflow", RunFailed):
            _log_mlflow(client, run, history, out)


def _log_mlflow(client: Any, run: Exported, history: History, out: Path) -> None:  # noqa: ANN401
    entities: Any = import_module("mlflow.entities")
    ends_ms = [int(1000 * end) for end in ends_s(history)]
    begin_ms = int(1000 * began_s(history))
    log = client.create_run(
        _experiment_of(client, run.group or PROJECT, out),
        run_name=run.name,
        start_time=begin_ms,
        tags=dict(run.about),
    )
    params = [
        entities.Param(key, str(value)[:_LONGEST]) for key, value in plain_settings(history).items()
    ]
    metrics = [
        entities.Metric(tag, value, end_ms, line["round"])
        for line, end_ms in zip(history.rounds, ends_ms, strict=True)
        for tag, value in scalars(line).items()
    ]
    for some in _several(params, _MOST_PARAMS):
        client.log_batch(log.info.run_id, params=some)
    for some in _several(metrics, _MOST_METRICS):
        client.log_batch(log.info.run_id, metrics=some)
    client.set_terminated(log.info.run_id, end_time=ends_ms[-1] if ends_ms else begin_ms)


def _experiment_of(client: Any, name: str, out: Path) -> str:  # noqa: ANN401
    """Return the number of the experiment of that name, which may be new."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    where = None if os.environ.get("MLFLOW_TRACKING_URI") else (out.absolute() / "files").as_uri()
    return str(client.create_experiment(name, artifact_location=where))


def _several(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


def need_tracker(package: str) -> None:
    """Refuse to begin without a tracker.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec(package) is None:
        raise ConfigError(
            f"--to {package} needs the package {package}, which is not installed; install it with "
            f"`pip install {package}`"
        )


def _imported(package: str, switch: str, off: str) -> Any:  # noqa: ANN401
    """Import a tracker that does not report on its user, unless the user wants that."""
    os.environ.setdefault(switch, off)
    with user_code(f"importing {package}", RunFailed):
        return import_module(package)
