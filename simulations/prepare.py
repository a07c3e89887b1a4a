"""From an experiment to everything a run needs: task, model, clients, test examples."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import tomli_w
import torch
from pydantic_core import PydanticSerializationError, to_jsonable_python
from torch import Tensor

from roundel.core.config import Experiment, TaskConfig
from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError, DataError, RunDirectoryError
from roundel.core.learning import Learner
from roundel.core.modelfile import read_model
from roundel.core.params import bytes_of, named_tensors, tensors_blake3, tensors_sha256
from roundel.core.task import Task
from roundel.core.usercode import load_function, user_code
from roundel.server.loop import Absences, Server
from roundel.simulations.attacks.adversary import Adversary, settled
from roundel.simulations.devices import has_room
from roundel.simulations.division import (
    at_hand,
    check_own,
    check_undivided,
    checked,
    population_of,
    settled_kind,
)
from roundel.simulations.models import check_adapters
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.own import OWN, Elsewhere
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.tasks.registry import make_task
from roundel.simulations.topologies.checks import check_fit, check_settings, with_cohort
from roundel.simulations.tryout import try_out
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

    @property
    def names(self) -> list[str]:
        """What is given, by name."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """An experiment with its data at hand.

    Attributes:
        plan: The experiment.
        learner: The model.
        population: The clients.
        test: Global test examples, if the task has any.
        root: Root examples, if there are any.
        unsaid: What the experiment does not say: which pieces were given as objects, and hashes of
            the parameters to start from and of the first model. Goes into ``environment.json``.
    """

    plan: Plan
    learner: Learner
    population: Population
    test: Examples | None
    root: Examples | None = None
    unsaid: dict[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's layout, of what is frozen in it and of how a pool is divided.

        A coordinator and its nodes must agree on it, and so must a run and its continuation.
        """
        spec = self.learner.spec.fingerprint
        named = self.learner.model.named_parameters()
        if frozen := {name: value for name, value in named if not value.requires_grad}:
            spec = tensors_sha256(frozen, spec)  # in no vector, so nobody would notice
        if not isinstance(self.population, PartitionedPopulation):
            return spec
        partition, pool = self.population.partition, self.population.pool
        inputs = crc32(bytes_of(pool.inputs))  # against mistakes, not against malice; it is quick
        said = f"{spec} {partition.sha256} {targets_sha256(pool.targets)} {inputs}"
        return hashlib.sha256(said.encode()).hexdigest()

    @cached_property
    def adversary(self) -> Adversary | None:
        """The clients that attack, if any do."""
        return Adversary.of(self.plan.experiment, self.population.size)

    @cached_property
    def clients(self) -> Population:
        """The clients as they train: those that attack may do so on other labels."""
        return self.adversary.poisoned(self.population) if self.adversary else self.population

    def server(
        self,
        run: str,
        secrets: Callable[[int], bytes] | None = None,
        absences: Absences | None = None,
        *,
        bind_noise: Callable[[int, str], None] | None = None,
    ) -> Server:
        """Return the server's side of it.

        Args:
            run: The run's identity.
            secrets: See `roundel.server.loop.Server`.
            absences: Likewise.
            bind_noise: Likewise.
        """
        return Server(
            plan=self.plan,
            learner=self.learner,
            run=run,
            clock=time.perf_counter,
            test=self.test,
            root=self.root,
            absences=absences,
            sizes=None if isinstance(self.population, Elsewhere) else lambda: self.sizes,
            malicious=self.adversary.clients if self.adversary else (),
            secrets=secrets,
            bind_noise=bind_noise,
        )

    def on(self, device: torch.device) -> "Simulation":
        """Return it ready to compute on a device, with the examples there that have room."""
        self.learner.move(device)
        if device.type == "cpu":
            return self

        def near(examples: Examples | None) -> Examples | None:
            if examples is None or not has_room(examples, device):
                return examples
            return examples.to(device)

        population = self.population
        if isinstance(population, PartitionedPopulation) and has_room(population.pool, device):
            population = population.on(device)
        return replace(self, population=population, test=near(self.test), root=near(self.root))

    @cached_property
    def sizes(self) -> Sequence[int]:
        """How many training examples each client has, counted once they are needed."""
        if isinstance(self.population, PartitionedPopulation):
            return self.population.train_sizes
        return [len(self.population.client(k).train) for k in range(self.population.size)]


def prepare(
    experiment: Experiment, pieces: Pieces = Pieces(), *, load_test: bool = True
) -> Simulation:
    """Make the task, the strategy and the population, and check that they fit together.

    The experiment of the result is resolved: it says every knob of the task and of the strategy,
    and how many clients there are.

    Args:
        experiment: What the user asks for.
        pieces: What takes the place of things that it would name.
        load_test: Whether to read the global test examples, which no client needs. Of clients that
            bring their own examples, a node reads nothing here at all.

    Raises:
        ConfigError: A key or value is wrong.
        CompositionError: The strategy's parts contradict each other or the experiment.
        DataError: The data cannot be read or divided.
        ParameterError: The parameters to start from do not fit the model.
    """
    base = pieces.task or make_task(experiment.task)
    own = experiment.partition.kind == OWN
    at_node = own and not load_test  # where nothing is that the server keeps for itself
    if own:
        check_own(experiment.partition, base)
    if base.population is not None or pieces.population is not None:
        check_undivided(experiment.partition)
    task = _with_metrics(base, experiment.evaluation.metrics)
    # These find what is wrong before data is read.
    check_settings(experiment, task, pieces.names)
    settled(experiment.attack)
    first = Plan.of(experiment, task, pieces.strategy)
    with user_code(f"making the model of the task {task.name!r}", ConfigError):
        learner = Learner(first.task, experiment.seed_for("model"))
    unsaid: dict[str, Any] = {"pieces": pieces.names}
    if (initial := experiment.task.initial) is not None:
        tensors = read_model(initial)
        learner.start_from(tensors, f"task.initial = {str(initial)!r}")
        check_adapters(initial, task, learner.model)
        unsaid["initial_sha256"] = tensors_sha256(tensors)
    with user_code(f"loading the data of the task {task.name!r}", DataError):
        held = experiment.partition.root if first.strategy.root and not at_node else 0
        root, population = _divided(experiment, task, held, pieces)
        test = _test_set(experiment, task) if load_test else None
    if not isinstance(population, Population):
        raise ConfigError(
            f"the population of the task {task.name!r} is of type {type(population).__name__}; it "
            "must have a size and a method client"
        )
    name = experiment.task.name if pieces.task is None else task.name
    experiment = with_cohort(experiment, population.size)
    simulation = Simulation(
        plan=Plan.of(_resolved(experiment, name, task, population), task, pieces.strategy),
        learner=learner,
        population=population,
        test=test,
        root=root,
        unsaid=unsaid,
    )
    if test is not None:
        try_out(learner, test, "test examples")
    if isinstance(population, PartitionedPopulation) and task.train is None:
        try_out(learner, population.pool, "examples")
    learner.check(simulation.plan.phases(1))
    check_fit(experiment, learner, simulation.plan.strategy, population.size)
    if not at_node:
        simulation.server("").check(population.size, account=load_test)
    for part in simulation.plan.strategy.parts:
        simulation.unsaid.update(part.packages)
    simulation.unsaid["fingerprint"] = simulation.fingerprint
    simulation.unsaid["model_blake3"] = _first_model(learner)
    return simulation


def _first_model(learner: Learner) -> str:
    """Return a hash of all tensors that a run begins with, whatever a strategy does with them."""
    model = learner.model
    return tensors_blake3(named_tensors(model))


def prepare_again(
    path: Path,
    environment: Mapping[str, Any],
    experiment: Experiment,
    pieces: Pieces,
    *,
    load_test: bool = True,
) -> Simulation:
    """Make everything that a run began with once more.

    Args:
        path: The run directory, for messages.
        environment: What it recorded.
        experiment: Its experiment.
        pieces: The same pieces that it began with.
        load_test: As for `prepare`.

    Raises:
        RunDirectoryError: A piece is missing, or the parameters to start from have changed.
    """
    for name in environment.get("pieces", ()):
        if name not in pieces.names:
            raise RunDirectoryError(
                f"{path} was given its {name} as an object, which no file can hold; give the same "
                f"one in Python, as Pieces({name}=...)"
            )
    simulation = prepare(experiment, pieces, load_test=load_test)
    recorded = environment.get("initial_sha256")
    if recorded != simulation.unsaid.get("initial_sha256"):
        raise RunDirectoryError(
            f"{path} began with other parameters than {experiment.task.initial} holds now; put the "
            "old file back"
        )
    if environment.get("fingerprint", simulation.fingerprint) != simulation.fingerprint:
        raise RunDirectoryError(
            f"{path} began with another model or with other data than {_source(experiment)} gives "
            "now; go on with those that it began with, or start a new run"
        )
    return simulation


def _source(experiment: Experiment) -> str:
    """Say where a run's data comes from."""
    task = experiment.task
    return f"the task {task.name!r}" if task.path is None else str(task.path)


def _test_set(experiment: Experiment, task: Task) -> Examples | None:
    """Return the global test set, if there is one."""
    if experiment.partition.kind == OWN:
        return at_hand(task.load_test, experiment, task, "load_test")
    load = task.load_test
    return None if load is None else checked(load(experiment.task.path), task, "load_test")


def _divided(
    experiment: Experiment, task: Task, held: int, pieces: Pieces
) -> tuple[Examples | None, Population]:
    """Return the server's root examples, if it needs any, and the clients with theirs."""
    if pieces.population is not None:
        return pieces.root, pieces.population
    root, population = population_of(experiment, task, held if pieces.root is None else 0)
    return pieces.root or root, population


def _with_metrics(task: Task, names: list[str]) -> Task:
    """Add the user's own metrics to those of a task."""
    functions = {name: load_function(name, "evaluation.metrics") for name in names}
    if not functions:
        return task

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        sums = dict(task.metrics(outputs, targets))
        for name, function in functions.items():
            for figure, value in _sums(name, function(outputs, targets)):
                if figure in sums:
                    raise ConfigError(
                        f"evaluation.metrics = {name!r} returned {figure!r}, which is measured "
                        "already; call it something else"
                    )
                sums[figure] = value
        return sums

    return replace(task, metrics=metrics)


def _sums(name: str, returned: object) -> Iterator[tuple[str, Tensor]]:
    """Yield what a metric of the user's returned, if it is sums by name."""
    if not isinstance(returned, Mapping):
        raise ConfigError(
            f"evaluation.metrics = {name!r} returned {type(returned).__name__}; it must return "
            "sums over the batch by name, such as {'top_5': hits.sum()}"
        )
    for figure, value in returned.items():
        if not isinstance(figure, str) or torch.as_tensor(value).numel() != 1:
            raise ConfigError(
                f"evaluation.metrics = {name!r} returned {figure!r} of shape "
                f"{tuple(torch.as_tensor(value).shape)}; return one sum over the batch, by name"
            )
        yield figure, torch.as_tensor(value)


def _resolved(experiment: Experiment, name: str, task: Task, population: Population) -> Experiment:
    """Return the experiment with what the task and the data have settled."""
    said = experiment.task
    knobs = {knob: value for knob, value in task.knobs.items() if _is_plain(value)}
    paths = {"path": _absolute(said.path), "initial": _absolute(said.initial)}
    about = {**knobs, "name": name, **paths}
    partition = experiment.partition.model_copy(
        update={"clients": population.size, "path": _absolute(experiment.partition.path)}
    )
    if task.load is not None and task.population is None:
        partition = settled_kind(partition, task)
    return experiment.model_copy(
        update={
            "task": TaskConfig.model_validate(about),
            "partition": partition,
            "attack": settled(experiment.attack, population),
        }
    )


def _absolute(path: Path | None) -> Path | None:
    """Return a path that still leads there when the run is resumed from another directory."""
    return None if path is None else path.absolute()


def _is_plain(value: object) -> bool:
    """Tell whether a file can hold a knob; a default that is a function need not be written."""
    try:
        tomli_w.dumps({"knob": to_jsonable_python(value)})
    except (PydanticSerializationError, TypeError):
        return value is None
    return True
