"""Whose examples are whose: clients that a task makes, or a pool that is divided over them."""

import torch

from roundel.core.config import Experiment, PartitionConfig
from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError, DataError
from roundel.core.seeds import derive, torch_generator
from roundel.core.task import Loader, Task
from roundel.simulations.partitions.make import CLIENTS
from roundel.simulations.partitions.own import OWN, Elsewhere
from roundel.simulations.population import PartitionedPopulation


def population_of(
    experiment: Experiment, task: Task, held: int = 0
) -> tuple[Examples | None, Population]:
    """Let a task make its clients, or divide its examples over clients as the experiment says.

    Args:
        experiment: What the user asks for.
        task: What is learned.
        held: How many examples of a pool the server keeps for itself.

    Returns:
        What the server keeps, if there is anything, and the clients.

    Raises:
        ConfigError: The task has neither.
        DataError: They cannot be read or divided.
    """
    settings, seed = experiment.partition, experiment.seed_for("data")
    if settings.kind == OWN and settings.clients is not None:
        return _own_root(experiment, task, held), Elsewhere(settings.clients)
    if task.population is not None:
        return None, task.population(settings.clients or CLIENTS, seed)
    if task.load is None:
        raise ConfigError(
            f"task {task.name!r} brings no examples to divide; give a population in `pieces`"
        )
    pool = checked(task.load(experiment.task.path), task, "load")
    root, rest = _kept(pool, held, seed)
    return root, PartitionedPopulation.of(settled_kind(settings, task), rest, seed)


def _kept(pool: Examples, count: int, seed: int) -> tuple[Examples | None, Examples]:
    """Take examples out of a pool, uniformly at random, for the server."""
    if not count:
        return None, pool
    if count >= len(pool):
        raise ConfigError(
            f"partition.root = {count} leaves nothing of the {len(pool)} examples to the clients; "
            "lower it"
        )
    order = torch.randperm(len(pool), generator=torch_generator(derive(seed, "root examples")))
    root, rest = order[:count].sort().values, order[count:].sort().values
    users = None if pool.users is None else pool.users[rest]
    return pool.take(root), Examples(pool.inputs[rest], pool.targets[rest], users)


def _own_root(experiment: Experiment, task: Task, held: int) -> Examples | None:
    """Return what the server keeps of examples of its own, where no client has any of these."""
    pool = at_hand(task.load, experiment, task, "load") if held else None
    if pool is None or len(pool) <= held:
        return pool
    return _kept(pool, held, experiment.seed_for("data"))[0]


def at_hand(
    load: Loader | None, experiment: Experiment, task: Task, function: str
) -> Examples | None:
    """Return what a coordinator has itself where clients bring their own examples.

    Args:
        load: Reads it.
        experiment: Says where it is.
        task: What is learned.
        function: What the task calls `load`.

    Returns:
        None if it has nothing: `task.path` is not set, and nothing ships with the task.

    Raises:
        DataError: What is in `task.path` cannot be read.
    """
    if load is None:
        return None
    try:
        return checked(load(experiment.task.path), task, function)
    except DataError:
        if experiment.task.path is not None:
            raise
        return None


def checked(loaded: object, task: Task, function: str) -> Examples:
    """Return what a task's loader returned, if it is examples.

    Raises:
        DataError: It is something else, or there are none.
    """
    if not isinstance(loaded, Examples):
        raise DataError(
            f"{function} of the task {task.name!r} returned {type(loaded).__name__}; it must "
            f"return {Examples.__module__}.{Examples.__name__}"
        )
    if len(loaded) == 0:
        raise DataError(f"{function} of the task {task.name!r} returned no examples; give it some")
    return loaded


def check_undivided(settings: PartitionConfig) -> None:
    """Refuse settings of a division where clients bring their own data.

    Raises:
        ConfigError: Something besides the number of clients is set.
    """
    usual = PartitionConfig(clients=settings.clients)
    for key in PartitionConfig.model_fields:
        if (value := getattr(settings, key)) != getattr(usual, key):
            raise ConfigError(
                f"partition.{key} = {value!r} has no effect: the clients bring their own examples "
                "and no pool is divided; leave it out"
            )


def check_own(settings: PartitionConfig, task: Task) -> None:
    """Refuse what cannot be done to examples that clients bring themselves.

    Raises:
        ConfigError: Something is set that changes or divides a pool, or the task reads no examples.
    """
    if task.load is None:
        raise ConfigError(
            f"the task {task.name!r} reads no examples from a path, and with partition.kind = "
            "'own' every node does; choose another task, or leave partition.kind out"
        )
    usual = PartitionConfig()
    for key in ("noise", "rotations", "path"):
        if (value := getattr(settings, key)) != getattr(usual, key):
            raise ConfigError(
                f"partition.{key} = {str(value)!r} is about a pool that is divided, and with "
                "partition.kind = 'own' nodes bring their own examples; leave it out"
            )


def check_at_hand(experiment: Experiment, what: str) -> None:
    """Refuse what needs clients' examples here, if they lie at nodes.

    Args:
        experiment: What is to be run.
        what: What needs them, such as ``"a simulation"``.

    Raises:
        ConfigError: The experiment says that nodes bring them.
    """
    if experiment.partition.kind == OWN:
        raise ConfigError(
            f"partition.kind = 'own' leaves the clients' examples at their nodes, and {what} needs "
            "them here; deploy it with `roundel serve`, or bring all examples together and divide "
            "them by another kind"
        )


def settled_kind(settings: PartitionConfig, task: Task) -> PartitionConfig:
    """Say how a pool is divided, if the experiment leaves it to the task."""
    return settings.model_copy(update={"kind": settings.kind or task.partition})
