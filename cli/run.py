"""What `simulate`, `resume` and `serve` have in common: run with progress, then sum up."""

from pathlib import Path

import typer

from roundel.cli.progress import resumable, watching
from roundel.cli.tensorboard import logged
from roundel.core.config import Experiment
from roundel.core.history import History, read_history
from roundel.reports.summary import summary
from roundel.simulations.simulate import new_run_path, resume, simulate


def new_run(
    experiment: Experiment,
    out: Path | None,
    *,
    as_json: bool,
    nodes: int | None,
    tensorboard: bool,
) -> None:
    """Run an experiment from its first round, in this process or over so many node processes."""
    path = out or new_run_path(experiment.name)
    with (
        resumable(path),
        watching(experiment.rounds, 0, as_json=as_json) as view,
        logged(path, view.show, wanted=tensorboard) as on_round,
    ):
        if nodes is None:
            history = simulate(experiment, out=path, on_start=view.begin, on_round=on_round)
        else:
            from roundel.simulations.deployed import simulate_as_deployed

            history = simulate_as_deployed(
                experiment, nodes=nodes, out=path, on_start=view.begin, on_round=on_round
            )
    _sum_up(history, as_json=as_json)


def resume_run(path: Path, *, as_json: bool, tensorboard: bool) -> None:
    """Go on with a run the way it began."""
    before = read_history(path)
    rounds, done = before.experiment.rounds, len(before.rounds)
    nodes = before.environment["engine"].get("nodes")
    with (
        resumable(path),
        watching(rounds, done, as_json=as_json) as view,
        logged(path, view.show, wanted=tensorboard) as on_round,
    ):
        if nodes is None:
            history = resume(path, on_round=on_round)
        else:
            from roundel.simulations.deployed import resume_as_deployed

            history = resume_as_deployed(path, nodes=nodes, on_round=on_round)
    _sum_up(history, as_json=as_json)


def serve_run(
    experiment: Experiment, out: Path | None, *, listen: str, as_json: bool, tensorboard: bool
) -> None:
    """Coordinate an experiment over nodes that dial in."""
    from roundel.simulations.deployed import serve

    def say(line: str) -> None:
        typer.echo(line, err=True)

    path = out or new_run_path(experiment.name)
    with (
        resumable(path),
        watching(experiment.rounds, 0, as_json=as_json) as view,
        logged(path, view.show, wanted=tensorboard) as on_round,
    ):
        history = serve(
            experiment,
            listen=listen,
            out=path,
            on_start=view.begin,
            on_round=on_round,
            say=say,
        )
    _sum_up(history, as_json=as_json)


def _sum_up(history: History, *, as_json: bool) -> None:
    typer.echo(summary(history), err=as_json)
