"""What `simulate`, `resume` and `serve` have in common: run with progress, then sum up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from roundel.cli.metrics import measured
from roundel.cli.progress import View, resumable, watching
from roundel.cli.security import Access, secured
from roundel.cli.tensorboard import logged
from roundel.core.config import Experiment
from roundel.core.errors import ConfigError
from roundel.core.history import History, read_history
from roundel.core.runfiles import CONFIG, read_run
from roundel.core.threads import available_cores
from roundel.reports.summary import summary
from roundel.simulations.partitions import PartitionReport
from roundel.simulations.ranks import is_follower, is_launched
from roundel.simulations.simulate import OnStart, new_run_path, resume, simulate
from roundel.strategies.registry import make_strategy

if TYPE_CHECKING:
    from roundel.simulations.deployed import Serving


def new_run(
    experiment: Experiment,
    out: Path | None,
    *,
    as_json: bool,
    nodes: int | None,
    tensorboard: bool,
) -> None:
    """Run an experiment from its first round, in this process or over so many node processes."""
    if nodes is None and is_follower():
        simulate(experiment)  # rank 0 shows it
        return
    path = out or new_run_path(experiment.name)
    with (
        resumable(path),
        watching(experiment.rounds, 0, as_json=as_json) as view,
        logged(path, view.show, wanted=tensorboard) as on_round,
    ):
        on_start = _start(experiment, view, path)
        if nodes is None:
            history = simulate(experiment, out=path, on_start=on_start, on_round=on_round)
        else:
            from roundel.simulations.deployed import simulate_as_deployed

            history = simulate_as_deployed(
                experiment, nodes=nodes, out=path, on_start=on_start, on_round=on_round
            )
    _sum_up(history, as_json=as_json)


def resume_run(path: Path, *, workers: int | None, as_json: bool, tensorboard: bool) -> None:
    """Go on with a run the way it began, unless with another number of workers."""
    before = read_history(path)
    rounds, done = before.experiment.rounds, len(before.rounds)
    nodes = before.environment["engine"].get("nodes")
    mode = before.environment["engine"].get("mode")
    if mode == "serve":
        raise ConfigError(
            f"{path} was run over nodes that dial in; go on with it by `roundel serve --resume "
            f"{path}`"
        )
    if mode == "flower":
        raise ConfigError(
            f"{path} was run on Flower, which does not go on with a run; start it there again, or "
            f"run the same rounds here by `roundel simulate {path / CONFIG}`"
        )
    if nodes is None and is_follower():
        resume(path)
        return
    with (
        resumable(path),
        watching(rounds, done, as_json=as_json) as view,
        logged(path, view.show, wanted=tensorboard) as on_round,
    ):
        if nodes is None:
            history = resume(path, workers=workers, on_round=on_round)
        else:
            from roundel.simulations.deployed import resume_as_deployed

            history = resume_as_deployed(path, nodes=nodes, on_round=on_round)
    _sum_up(history, as_json=as_json)


@dataclass(frozen=True, kw_only=True)
class Listening:
    """How a coordinator is reached.

    Attributes:
        address: ``host:port``.
        access: Who may call.
        metrics: Where Prometheus asks for figures; None for nowhere.
    """

    address: str
    access: Access
    metrics: str | None = None


def serve_run(
    experiment: Experiment,
    out: Path | None,
    listening: Listening,
    *,
    as_json: bool,
    tensorboard: bool,
) -> None:
    """Coordinate an experiment over nodes that dial in."""
    from roundel.simulations.deployed import serve

    path = out or new_run_path(experiment.name)
    with _served(path, experiment, 0, listening, as_json, tensorboard) as serving:
        history = serve(experiment, path, serving)
    _sum_up(history, as_json=as_json)


def resume_served_run(
    path: Path, listening: Listening, *, as_json: bool, tensorboard: bool
) -> None:
    """Go on with a run that was served."""
    from roundel.simulations.deployed import resume_served

    before = read_history(path)
    done = len(before.rounds)
    with _served(path, before.experiment, done, listening, as_json, tensorboard) as serving:
        history = resume_served(path, serving)
    _sum_up(history, as_json=as_json)


@contextmanager
def _served(
    path: Path,
    experiment: Experiment,
    done: int,
    listening: Listening,
    as_json: bool,
    tensorboard: bool,
) -> "Iterator[Serving]":
    """Yield how to serve a run: with what it shows, and where it listens."""
    from roundel.simulations.deployed import Serving

    def say(line: str) -> None:
        typer.echo(line, err=True)

    with (
        resumable(path, "serve --resume"),
        watching(experiment.rounds, done, as_json=as_json) as view,
        logged(path, view.show, wanted=tensorboard) as on_round,
        measured(view.status, listening.metrics, say) as on_status,
        secured(listening.access) as security,
    ):
        yield Serving(
            listen=listening.address,
            security=security,
            insecure=listening.access.insecure,
            inviting=listening.access.inviting,
            authority=listening.access.remembered,
            on_start=_start(experiment, view, path),
            on_round=on_round,
            on_status=on_status,
            say=say,
        )


def _start(experiment: Experiment, view: View, path: Path) -> OnStart:
    """Return what is called before the first round: show the partition, and what to mind."""

    def start(report: PartitionReport) -> None:
        if caution := _caution(experiment):
            typer.echo(f"roundel: {caution}", err=True)
        _, environment = read_run(path)
        if why := environment["engine"].get("why"):
            typer.echo(f"roundel: clients are trained one after another because {why}", err=True)
        workers, cores = environment["engine"].get("workers", 1), available_cores()
        if workers > cores and not is_launched():
            typer.echo(
                f"roundel: {workers} workers share {cores} cores and wait for each other; "
                f"engine.workers = {cores} is faster, with the same bits",
                err=True,
            )
        view.begin(report)

    return start


def _caution(experiment: Experiment) -> str:
    """Say what an experiment may do and hardly ever means to; empty if there is nothing."""
    said = experiment.strategy
    strategy = make_strategy(said.name, said.knobs, said.parts)
    adapters = [part.name for part in strategy.parts if "adapters" in part.provides]
    if not adapters or experiment.task.initial is not None:
        return ""
    return (
        f"{adapters[0]} freezes all but its adapters, and without task.initial what is frozen was "
        "drawn at random, unless the task brings trained weights; set task.initial to a run or a "
        "safetensors file"
    )


def _sum_up(history: History, *, as_json: bool) -> None:
    typer.echo(summary(history), err=as_json)
