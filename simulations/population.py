"""Clients that hold pieces of one pool of examples."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from roundel.core.config import PartitionConfig
from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions.make import make_partition
from roundel.simulations.partitions.partition import TEST, TRAIN, VALIDATION, Partition
from roundel.simulations.partitions.skew import FeatureSkew


@dataclass(frozen=True, kw_only=True)
class PartitionedPopulation:
    """A population over one pool in memory; a client is a piece of an index array.

    Attributes:
        pool: The examples of all clients.
        partition: Which of them are at which client, in which part.
        skew: What is done to each client's inputs.

    Raises:
        DataError: The partition is of another pool, or the skew cannot be done to its inputs.
    """

    pool: Examples
    partition: Partition
    skew: FeatureSkew = FeatureSkew()

    def __post_init__(self) -> None:
        if self.partition.examples != len(self.pool):
            raise DataError(
                f"the partition divides {self.partition.examples} examples and the pool has "
                f"{len(self.pool)}; make the partition from this pool"
            )
        self.skew.check(self.pool)

    @classmethod
    def of(cls, config: PartitionConfig, pool: Examples, seed: int) -> "PartitionedPopulation":
        """Divide a pool as an experiment says.

        Args:
            config: The kind of division and its parameters.
            pool: All examples.
            seed: The experiment's data seed.

        Raises:
            ConfigError: A parameter that the kind needs is missing.
            DataError: The pool cannot be divided so.
        """
        return cls(
            pool=pool,
            partition=make_partition(config, pool, seed),
            skew=FeatureSkew.of(config, seed),
        )

    def on(self, device: torch.device) -> "PartitionedPopulation":
        """Return it with its pool on a device, where batches are put together then.

        A pool whose inputs are changed for each client stays where it is: that is done on the CPU.
        """
        return replace(self, pool=self.pool.to(device)) if self.skew.is_none else self

    @property
    def size(self) -> int:
        """How many clients there are."""
        return self.partition.clients

    @property
    def train_sizes(self) -> list[int]:
        """How many training examples each client has."""
        trains = self.partition.owners[self.partition.parts == TRAIN]
        sizes: list[int] = np.bincount(trains, minlength=self.size).tolist()
        return sizes

    def client(self, client_id: int) -> ClientData:
        """Return one client's data, copied from the pool.

        Raises:
            DataError: There is no such client.
        """
        rows = self.partition.rows(client_id)
        parts = self.partition.parts_of(client_id)
        pool = self.pool
        if not self.skew.is_none:  # which is drawn for all of a client's inputs at once
            own = torch.from_numpy(rows)
            inputs = self.skew.apply(pool.inputs[own], client_id, self.size)
            pool, rows = Examples(inputs, pool.targets[own]), np.arange(len(rows))
        train, validation, test = (
            pool.take(torch.from_numpy(rows[parts == part])) for part in (TRAIN, VALIDATION, TEST)
        )
        return ClientData(train=train, validation=validation, test=test)
