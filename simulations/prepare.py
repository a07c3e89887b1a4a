"""From an experiment to everything a run needs: task, model, clients, test examples."""

import time
from dataclasses import dataclass, replace

from pydantic_core import PydanticSerializationError, to_jsonable_python

from roundel.core.config import Experiment, PartitionConfig, TaskConfig
from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError, DataError
from roundel.core.learning import Learner
from roundel.core.modelfile import read_model
from roundel.core.task import MetricSums, Task
from roundel.core.usercode import load_function, user_code
from roundel.server.loop import Absences, Server
from roundel.simulations.partitions.make import CLIENTS
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

    def server(self, run: str, absences: Absences | None = None) -> Server:
        """Return the server's side of it.

        Args:
            run: The run's identity.
            absences: See `roundel.server.loop.Server`.
        """
        return Server(
            plan=self.plan,
            learner=self.learner,
            run=run,
            clock=time.perf_counter,
            test=self.test,
            root=self.root,
            absences=absences,
        )


def prepare(experiment: Experiment, pieces: Pieces = Pieces()) -> Simulation:
    """Make the task, the strategy and the population, and check that they fit together.

    The experiment of the result is resolved: it says every knob of the task and of the strategy,
    and how many clients there are.

    Raises:
        ConfigError: A key or value is wrong.
        CompositionError: The strategy's parts contradict each other or the experiment.
        DataError: The data cannot be read or divided.
        ParameterError: The parameters to start from do not fit the model.
    """
    base = pieces.task or make_task(experiment.task)
    task = _with_metrics(base, experiment.evaluation.metrics)
    Plan.of(experiment, task, pieces.strategy)  # finds what is wrong before data is read
    with user_code(f"making the model of the task {task.name!r}", ConfigError):
        learner = Learner(task, experiment.seed_for("model"))
    if (initial := experiment.task.initial) is not None:
        learner.start_from(read_model(initial), f"task.initial = {str(initial)!r}")
    with user_code(f"loading the data of the task {task.name!r}", DataError):
        population = pieces.population or population_of(experiment, task)
        test = task.load_test(experiment.task.path) if task.load_test else None
    name = experiment.task.name if pieces.task is None else task.name
    simulation = Simulation(
        plan=Plan.of(_resolved(experiment, name, task, population.size), task, pieces.strategy),
        learner=learner,
        population=population,
        test=test,
        root=pieces.root,
    )
    learner.check(simulation.plan.phases(1))
    simulation.server("").check(population.size)
    return simulation


def population_of(experiment: Experiment, task: Task) -> Population:
    """Let a task make its clients, or divide its examples over clients as the experiment says.

    Raises:
        ConfigError: The task has neither.
        DataError: They cannot be read or divided.
    """
    settings, seed = experiment.partition, experiment.seed_for("data")
    if task.population is not None:
        return task.population(settings.clients or CLIENTS, seed)
    if task.load is None:
        raise ConfigError(
            f"task {task.name!r} brings no examples to divide; give a population in `pieces`"
        )
    pool = task.load(experiment.task.path)
    return PartitionedPopulation.of(_settled(settings, task), pool, seed)


def _settled(settings: PartitionConfig, task: Task) -> PartitionConfig:
    """Say how a pool is divided, if the experiment leaves it to the task."""
    return settings.model_copy(update={"kind": settings.kind or task.partition})


def _with_metrics(task: Task, names: list[str]) -> Task:
    """Add the user's own metrics to those of a task."""
    functions = [load_function(name, "evaluation.metrics") for name in names]
    if not functions:
        return task
    own: list[MetricSums] = [task.metrics, *functions]
    return replace(
        task,
        metrics=lambda outputs, targets: {
            name: value for metric in own for name, value in metric(outputs, targets).items()
        },
    )


def _resolved(experiment: Experiment, name: str, task: Task, clients: int) -> Experiment:
    """Return the experiment with what the task and the data have settled."""
    said = experiment.task
    knobs = {knob: value for knob, value in task.knobs.items() if _is_plain(value)}
    about = {**knobs, "name": name, "path": said.path, "initial": said.initial}
    partition = experiment.partition.model_copy(update={"clients": clients})
    if task.load is not None and task.population is None:
        partition = _settled(partition, task)
    return experiment.model_copy(
        update={"task": TaskConfig.model_validate(about), "partition": partition}
    )


def _is_plain(value: object) -> bool:
    """Tell whether a file can hold a knob; a default that is a function need not be written."""
    try:
        to_jsonable_python(value)
    except PydanticSerializationError:
        return False
    return True
