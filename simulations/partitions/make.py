"""From the experiment's section `partition` to a partition of a pool."""

from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.core.errors import ConfigError
from roundel.simulations.partitions.archive import load_partition
from roundel.simulations.partitions.classes import classes, shards
from roundel.simulations.partitions.dirichlet import class_prior, dirichlet
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.natural import natural
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.quantity import iid, lognormal, power_law
from roundel.simulations.partitions.sizes import check_enough

CLIENTS = 100
"""The population of kinds that divide a pool, unless the experiment says how large it is."""


def make_partition(config: PartitionConfig, pool: Examples, seed: int) -> Partition:
    """Divide a pool over clients, and each client's examples into parts, as an experiment says.

    A partition that is read from a file holds out what it held out when it was written;
    `partition.validation` and `partition.test` say nothing about it.

    Args:
        config: The kind of division and its parameters.
        pool: All examples; their targets are class numbers if the kind depends on them.
        seed: The experiment's data seed.

    Raises:
        ConfigError: A parameter that the kind needs is missing.
        DataError: There are too few examples, the labels are not class numbers, users are not
            known, or a file does not fit.
    """
    if config.kind is None:
        raise ConfigError(
            "partition.kind is not set; choose one, such as 'iid', or 'dirichlet' for class numbers"
        )
    if config.kind == "own":
        raise ConfigError(
            "partition.kind = 'own' divides no pool: every node brings its own examples; choose "
            "another kind, such as 'iid'"
        )
    if config.kind == "file":
        return _from_file(config, pool)
    return _divided(config, pool, seed).holding_out(
        validation=config.validation, test=config.test, seed=seed
    )


def _divided(config: PartitionConfig, pool: Examples, seed: int) -> Partition:
    count, labels, minimum = len(pool), pool.targets, config.min_examples
    if config.kind == "natural":
        return natural(pool.users, config.clients, minimum)
    clients = config.clients or CLIENTS
    check_enough(count, clients, minimum)
    match config.kind:
        case "dirichlet":
            return dirichlet(labels, clients, config.alpha, minimum, seed)
        case "class-prior":
            return class_prior(labels, clients, config.alpha, minimum, seed)
        case "shards":
            return shards(labels, clients, config.shards, minimum, seed)
        case "classes":
            return classes(labels, clients, config.classes, minimum, seed)
        case "lognormal":
            return lognormal(count, clients, config.sigma, minimum, seed)
        case "power-law":
            return power_law(count, clients, config.exponent, minimum, seed)
        case _:
            return iid(count, clients, seed)


def _from_file(config: PartitionConfig, pool: Examples) -> Partition:
    if config.path is None:
        raise ConfigError(
            "partition.kind = 'file' needs partition.path; set it to the partition.npz of a run"
        )
    path = config.path / "partition.npz" if config.path.is_dir() else config.path
    partition = load_partition(path, len(pool), targets_sha256(pool.targets))
    if config.clients not in (None, partition.clients):
        raise ConfigError(
            f"partition.clients = {config.clients}, and {config.path} divides the pool over "
            f"{partition.clients}; leave partition.clients out"
        )
    return partition
