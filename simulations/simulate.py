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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.data import Examples, Population
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError
from roundel.core.history import History, read_history
from roundel.core.learning import Learner
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory, read_run
from roundel.core.task import Task
from roundel.server.loop import Server
from roundel.server.run import OnRound, find_start, run_rounds
from roundel.simulations.executor import LoopClients
from roundel.simulations.partitions import make_partition
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.tasks.registry import make_task
from roundel.strategies.compose import Strategy
from roundel.strategies.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What takes the place of things that the experiment file would name.

    Attributes:
        task: What is learned.
        strategy: How.
        population: The clients and their data.
        root: Root examples, for strategies that train on the server.
    """

    task: Task | None = None
    strategy: Strategy | None = None
    population: Population | None = None
    root: Examples | None = None


def simulate(
    experiment: Experiment | Path | str | None = None,
    *,
    settings: Sequence[str] = (),
    pieces: Pieces = Pieces(),
    out: Path | str | None = None,
    on_round: OnRound | None = None,
) -> History:
    """Run an experiment from its first round.

    Args:
        experiment: An experiment, or the path of its TOML file; None for the defaults: federated
            averaging of 100 clients with non-IID shares of the UCI digits.
        settings: Overrides such as ``"client.lr=0.05"``, for a path or the defaults.
        pieces: Your own task, strategy or population, in place of named ones.
        out: The run directory; by default a new one under ``runs/``.
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
        describe_environment(uuid.uuid4().hex, engine_of(experiment, mode="simulate")),
    )
    return _run(simulation, directory, on_round)


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
    experiment, _ = read_run(Path(run))
    simulation = prepare(experiment, pieces)
    return _run(simulation, RunDirectory.open(Path(run)), on_round)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """An experiment with its data at hand.

    Attributes:
        plan: The experiment.
        learner: The model.
        population: The clients.
        test: Global test examples, if the task has any.
        root: Root examples, if there are any.
    """

    plan: Plan
    learner: Learner
    population: Population
    test: Examples | None
    root: Examples | None = None

    def server(self, run: str) -> Server:
        """Return the server's side of it."""
        return Server(
            plan=self.plan,
            learner=self.learner,
            run=run,
            clock=time.perf_counter,
            test=self.test,
            root=self.root,
        )


def prepare(experiment: Experiment, pieces: Pieces = Pieces()) -> Simulation:
    """Make the task, the strategy and the population, and check that they fit together.

    Raises:
        ConfigError: A key or value is wrong.
        CompositionError: The strategy's parts contradict each other or the experiment.
        DataError: The data cannot be read or divided.
    """
    task = pieces.task or make_task(experiment.task)
    plan = Plan.of(experiment, task, pieces.strategy)
    simulation = Simulation(
        plan=plan,
        learner=Learner(task, experiment.seed_for("model")),
        population=pieces.population or population_of(experiment, task),
        test=task.load_test(experiment.task.path) if task.load_test else None,
        root=pieces.root,
    )
    simulation.learner.check(plan.phases(1))
    simulation.server("").check(simulation.population.size)
    return simulation


def population_of(experiment: Experiment, task: Task) -> Population:
    """Divide a task's examples over clients as the experiment says.

    Raises:
        ConfigError: The task has no examples of its own.
        DataError: They cannot be read or divided.
    """
    if task.load is None:
        raise ConfigError(
            f"task {task.name!r} brings no examples to divide; give a population in `pieces`"
        )
    pool = task.load(experiment.task.path)
    settings, seed = experiment.partition, experiment.seed_for("data")
    return PartitionedPopulation(
        pool=pool,
        partition=make_partition(settings, pool.targets, seed),
        validation=settings.validation,
        test=settings.test,
        seed=seed,
    )


def _run(simulation: Simulation, directory: RunDirectory, on_round: OnRound | None) -> History:
    with directory, intra_op_threads(simulation.plan.experiment.engine.threads):
        if not directory.finished:
            server = simulation.server(directory.environment["run_id"])
            start = find_start(server, directory)
            clients = LoopClients(
                Trainer(simulation.plan, simulation.learner),
                simulation.population,
                ClientStore(start.clients),
            )
            run_rounds(server, clients, directory, start, on_round or _silent)
    return read_history(directory.path)


def new_run_path(name: str) -> Path:
    """Return a directory for a new run under ``runs/`` that does not exist yet."""
    stem = f"{name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
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
