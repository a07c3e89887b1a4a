"""Clients that hold pieces of one pool of examples."""

from dataclasses import dataclass

import torch

from roundel.core.data import ClientData, Examples, split
from roundel.core.errors import DataError
from roundel.core.seeds import derive, torch_generator
from roundel.simulations.partitions import Partition


@dataclass(frozen=True, kw_only=True)
class PartitionedPopulation:
    """A population over one pool in memory; a client is a piece of an index array.

    Attributes:
        pool: The examples of all clients.
        partition: Which of them are at which client.
        validation: The fraction of each client's examples held out for validation.
        test: The fraction of each client's examples held out for its own test.
        seed: The experiment's data seed; decides which of a client's examples are held out.

    Raises:
        DataError: The partition is of another pool.
    """

    pool: Examples
    partition: Partition
    validation: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        if self.partition.examples != len(self.pool):
            raise DataError(
                f"the partition divides {self.partition.examples} examples and the pool has "
                f"{len(self.pool)}; make the partition from the labels of this pool"
            )

    @property
    def size(self) -> int:
        """How many clients there are."""
        return self.partition.clients

    def client(self, client_id: int) -> ClientData:
        """Return one client's data, copied from the pool.

        Raises:
            DataError: There is no such client.
        """
        rows = torch.from_numpy(self.partition.rows(client_id))
        return split(
            self.pool.take(rows),
            validation=self.validation,
            test=self.test,
            generator=torch_generator(derive(self.seed, "split", client=client_id)),
        )
