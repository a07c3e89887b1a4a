"""Whose examples are whose: clients that a task makes, or a pool that is divided over them."""

import torch

from roundel.core.config import Experiment, PartitionConfig
from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError, DataError
from roundel.core.seeds import derive, torch_generator
from roundel.core.task import Task
from roundel.simulations.partitions.make import CLIENTS
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
        What the server keeps, and the clients.

    Raises:
        ConfigError: The task has neither.
        DataError: They cannot be read or divided.
    """
    settings, seed = experiment.partition, experiment.seed_for("data")
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


def settled_kind(settings: PartitionConfig, task: Task) -> PartitionConfig:
    """Say how a pool is divided, if the experiment leaves it to the task."""
    return settings.model_copy(update={"kind": settings.kind or task.partition})
