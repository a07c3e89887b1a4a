"""Clients that bring their own examples: one at each node, and nowhere else.

A client's examples are divided into train, validation and test at its node, by a seed that depends
on the data seed and the client's number alone, so nobody needs to know what others have.
`own_partition` is the same division for a simulation that has the examples of all in one pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from roundel.core.config import PartitionConfig
from roundel.core.data import ClientData, Examples, split, split_rows
from roundel.core.errors import DataError
from roundel.core.seeds import derive, torch_generator
from roundel.simulations.partitions.partition import TEST, VALIDATION, Partition

OWN = "own"
"""What `partition.kind` calls it."""


@dataclass(frozen=True)
class Elsewhere:
    """Clients whose examples lie at their nodes, as the coordinator knows them.

    Attributes:
        size: How many clients there are.
    """

    size: int

    def client(self, client_id: int) -> ClientData:
        """Refuse: nobody here has the data of a client.

        Raises:
            DataError: Always.
        """
        raise DataError(
            f"the examples of client {client_id} lie at its node and are read nowhere else; do "
            "this there, or give a simulation a partition.kind that divides a pool"
        )


@dataclass(frozen=True, kw_only=True)
class OwnExamples:
    """The clients as one node knows them: it has the examples of one, whichever that is.

    Attributes:
        size: How many clients there are.
        examples: The node's.
        config: Which shares are held out.
        seed: The experiment's data seed.
    """

    size: int
    examples: Examples
    config: PartitionConfig
    seed: int

    def client(self, client_id: int) -> ClientData:
        """Return the node's examples, divided as those of the client that it is."""
        return split(
            self.examples,
            validation=self.config.validation,
            test=self.config.test,
            generator=_generator(self.seed, client_id),
        )


def own_partition(sizes: Sequence[int], config: PartitionConfig, seed: int) -> Partition:
    """Divide a pool that consists of the clients' examples, one client after the other.

    Each client trains on the same examples, and holds out the same ones, as it would at a node of
    its own.

    Args:
        sizes: How many examples each client has.
        config: Which shares are held out.
        seed: The experiment's data seed.
    """
    owners = np.repeat(np.arange(len(sizes)), np.asarray(sizes, dtype=np.int64))
    whole = Partition.of(owners, clients=len(sizes), kind=OWN)
    parts = whole.parts.copy()
    for client_id, (start, count) in enumerate(zip(whole.offsets, sizes, strict=False)):
        _, validation, test = split_rows(
            count,
            validation=config.validation,
            test=config.test,
            generator=_generator(seed, client_id),
        )
        parts[start + validation.numpy()] = VALIDATION
        parts[start + test.numpy()] = TEST
    return replace(whole, parts=parts)


def _generator(seed: int, client_id: int) -> torch.Generator:
    return torch_generator(derive(seed, "own split", client=client_id))
