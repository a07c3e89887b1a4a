"""Who holds what, flat: the arrays from which the figures of a division are computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions.labels import class_numbers
from roundel.simulations.partitions.partition import TEST, TRAIN, VALIDATION, Integers, Partition


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdings:
    """The examples of some clients, one entry an example.

    Attributes:
        clients: The numbers of the clients, shape ``(clients,)``.
        owner: Whose each example is: a place in `clients`, shape ``(examples,)``.
        parts: `TRAIN`, `VALIDATION` or `TEST`, shape ``(examples,)``.
        labels: Class numbers, shape ``(examples,)``; None if targets are not class numbers.
    """

    clients: Integers
    owner: Integers
    parts: NDArray[np.uint8]
    labels: Integers | None

    @classmethod
    def of_partition(cls, partition: Partition, targets: Tensor) -> "Holdings":
        """Return what the clients of a partition hold."""
        labels = _labels(targets)
        return cls(
            clients=np.arange(partition.clients),
            owner=partition.owners,
            parts=partition.parts,
            labels=None if labels is None else labels[partition.order],
        )

    @classmethod
    def of_clients(cls, clients: Sequence[int], data: Sequence[ClientData]) -> "Holdings":
        """Return what clients hold whose data is at hand."""
        pieces = [
            (place, part, examples)
            for place, held in enumerate(data)
            for part, examples in (
                (TRAIN, held.train),
                (VALIDATION, held.validation),
                (TEST, held.test),
            )
        ]
        lengths = [len(examples) for _, _, examples in pieces]
        return cls(
            clients=np.array(clients, dtype=np.int64),
            owner=np.repeat(np.array([place for place, _, _ in pieces], dtype=np.int64), lengths),
            parts=np.repeat(np.array([part for _, part, _ in pieces], dtype=np.uint8), lengths),
            labels=_joined([examples for _, _, examples in pieces]),
        )

    @property
    def sizes(self) -> Integers:
        """How many examples each client has, shape ``(clients,)``."""
        return np.bincount(self.owner, minlength=len(self.clients))

    @property
    def sizes_by_part(self) -> Integers:
        """How many examples each client has in each part, shape ``(clients, 3)``."""
        cells = np.bincount(self.owner * 3 + self.parts, minlength=3 * len(self.clients))
        return cells.reshape(-1, 3)

    def distances(self) -> NDArray[np.float64]:
        """Return how far each client's label distribution is from that of all.

        The total variation distance ``sum_c |p_c - q_c| / 2``, from 0 (the same) to 1 (no class in
        common). Both sum to 1, so it is the sum of the positive differences alone, and the classes
        that a client does not have need not be looked at.

        Returns:
            One distance for each client that has examples, in their order.
        """
        if self.labels is None:
            return np.empty(0)
        total = np.bincount(self.labels)
        cells, counts = np.unique(self.owner * len(total) + self.labels, return_counts=True)
        clients, classes = np.divmod(cells, max(len(total), 1))
        sizes = self.sizes
        more = np.maximum(counts / sizes[clients] - total[classes] / len(self.labels), 0)
        return np.bincount(clients, more, len(sizes))[sizes > 0].astype(np.float64)


def _labels(targets: Tensor) -> Integers | None:
    try:
        return class_numbers(targets)
    except DataError:
        return None


def _joined(examples: Sequence[Examples]) -> Integers | None:
    labels = [_labels(e.targets) for e in examples if len(e) > 0]
    found = [numbers for numbers in labels if numbers is not None]
    return np.concatenate(found) if found and len(found) == len(labels) else None
