"""Run an experiment with a population that this machine simulates.

>>> from roundel.simulations import simulate
>>> run = simulate(
...     settings=["rounds=2", "evaluation.clients=0"], out=getfixture("tmp_path") / "run"
... )
>>> [line["completed"] for line in run.rounds]
[10, 10]
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from roundel.client.trainer import Trainer
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError
from roundel.core.history import History, read_history
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.core.runfiles import read_run
from roundel.server.checkpoints import open_store
from roundel.server.run import OnRound, find_start, run_rounds
from roundel.simulations.executor import LoopClients
from roundel.simulations.partitions import (
    PartitionReport,
    describe,
    is_described,
    write_report,
)
from roundel.simulations.prepare import Pieces, Simulation, prepare, prepare_again
from roundel.simulations.topologies.run import run_topology

OnStart = Callable[[PartitionReport], None]
"""Called once before the first round of a new run."""


def simulate(
    experiment: Experiment | Path | str | None = None,
    *,
    settings: Sequence[str] = (),
    pieces: Pieces = Pieces(),
    out: Path | str | None = None,
    on_start: OnStart | None = None,
    on_round: OnRound | None = None,
) -> History:
    """Run an experiment from its first round.

    Args:
        experiment: An experiment, or the path of its TOML file; None for the defaults: federated
            averaging of 100 clients with non-IID shares of the UCI digits.
        settings: Overrides such as ``"client.lr=0.05"``, for a path or the defaults.
        pieces: Your own task, strategy or population, in place of named ones.
        out: The run directory; by default a new one under ``runs/``.
        on_start: Called before the first round with how the examples lie at the clients.
        on_round: Called after each round.

    Returns:
        The run as it stands on disk.

    Raises:
        ConfigError: A key or value is wrong.
        RunDirectoryError: The directory is taken or cannot be written.
        RunFailed: Too few clients answered in a round.
    """
    if isinstance(experiment, Experiment):
        if settings:
            raise ConfigError(
                f"settings {list(settings)} are for a file or the defaults, and an experiment is "
                "given; change that one"
            )
    else:
        experiment = load_experiment(None if experiment is None else Path(experiment), settings)
    simulation = prepare(experiment, pieces)
    directory = RunDirectory.create(
        new_run_path(experiment.name) if out is None else Path(out),
        simulation.plan.experiment,
        describe_environment(
            uuid.uuid4().hex, engine_of(experiment, mode="simulate"), simulation.unsaid
        ),
    )
    return _run(simulation, directory, on_start, on_round)


def begin(simulation: Simulation, directory: RunDirectory, on_start: OnStart | None) -> None:
    """Write into a run how its examples lie at the clients, and tell, unless that was done."""
    if is_described(directory.path):
        return
    seed = simulation.plan.experiment.seed_for("data")
    report = describe(simulation.population, seed)
    write_report(report, directory.path)
    if on_start is not None:
        on_start(report)


def resume(
    run: Path | str, *, pieces: Pieces = Pieces(), on_round: OnRound | None = None
) -> History:
    """Go on with a run that was interrupted; a finished one is left as it is.

    Args:
        run: The run directory.
        pieces: The same pieces that the run began with.
        on_round: Called after each round.

    Raises:
        RunDirectoryError: The directory is not a run's, is damaged, or is in use.
        RunFailed: Too few clients answered, or recomputed rounds gave other hashes.
    """
    experiment, environment = read_run(Path(run))
    simulation = prepare_again(Path(run), environment, experiment, pieces)
    return _run(simulation, RunDirectory.open(Path(run)), None, on_round)


def _run(
    simulation: Simulation,
    directory: RunDirectory,
    on_start: OnStart | None,
    on_round: OnRound | None,
) -> History:
    with directory, intra_op_threads(simulation.plan.experiment.engine.threads):
        if not directory.finished:
            begin(simulation, directory, on_start)
            server = simulation.server(
                directory.environment["run_id"], directory.secret, bind_noise=directory.bind_noise
            )
            if simulation.plan.experiment.topology.kind != "star":
                run_topology(simulation, server, directory, on_round or _silent)
                return read_history(directory.path)
            start = find_start(server, directory)
            clients = LoopClients(
                Trainer(simulation.plan, simulation.learner, partial(directory.secret, 0)),
                simulation.clients,
                open_store(directory, start.clients),
                simulation.adversary,
            )
            run_rounds(server, clients, directory, start, on_round or _silent)
    return read_history(directory.path)


def new_run_path(name: str) -> Path:
    """Return a directory for a new run under ``runs/`` that does not exist yet."""
    stem = f"{name.replace('/', '-')[:100]}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = Path("runs") / stem, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{stem}-{count}"
    return path


def engine_of(experiment: Experiment, **more: object) -> dict[str, object]:
    """Return what `environment.json` says about the engine."""
    engine = experiment.engine
    return {
        "executor": "loop",
        "workers": 1,
        "threads": engine.threads,
        "device": engine.device,
        **more,
    }


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Set torch's threads inside an operation, which bits depend on, and put them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(_report: RoundReport) -> None:
    """Say nothing about a round."""
