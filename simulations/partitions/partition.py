"""Which examples are at which client, and in which part of its data."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.errors import DataError
from roundel.core.seeds import derive
from roundel.simulations.partitions.labels import class_numbers

Integers = NDArray[np.int64]

TRAIN: Final = 0
VALIDATION: Final = 1
TEST: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """Which examples are at which client, as one permutation cut into pieces.

    There is no object for a client: a population of a hundred thousand is three arrays.

    Attributes:
        order: The row numbers of all examples, client after client and ascending within a client,
            shape ``(examples,)``.
        offsets: Where each client's piece of `order` starts, and the end, shape ``(clients + 1,)``.
        parts: To which part of its client's data each example of `order` belongs: `TRAIN`,
            `VALIDATION` or `TEST`, uint8, shape ``(examples,)``.
        kind: The kind of division it is, as `partition.kind` calls it.
    """

    order: Integers
    offsets: Integers
    parts: NDArray[np.uint8]
    kind: str

    @classmethod
    def of(cls, owner: Integers, clients: int, kind: str = "given") -> "Partition":
        """Make the partition in which row ``i`` is at client ``owner[i]``, all for training.

        Args:
            owner: Client numbers in ``range(clients)``, shape ``(examples,)``.
            clients: How many clients there are.
            kind: What kind of division it is.
        """
        return cls(
            order=grouped(owner),
            offsets=starts(np.bincount(owner, minlength=clients)),
            parts=np.zeros(len(owner), dtype=np.uint8),
            kind=kind,
        )

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.offsets) - 1

    @property
    def examples(self) -> int:
        """How many examples there are, at all clients together."""
        return len(self.order)

    @property
    def sizes(self) -> Integers:
        """How many examples each client has, shape ``(clients,)``."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Integers:
        """The client of each example of `order`, shape ``(examples,)``."""
        return np.repeat(np.arange(self.clients), self.sizes)

    def rows(self, client: int) -> Integers:
        """Return the row numbers of one client's examples, ascending, without copying.

        Raises:
            DataError: There is no such client.
        """
        return self.order[self._piece(client)]

    def parts_of(self, client: int) -> NDArray[np.uint8]:
        """Return the part of each of the examples that `rows` returns, without copying.

        Raises:
            DataError: There is no such client.
        """
        return self.parts[self._piece(client)]

    def _piece(self, client: int) -> slice:
        if not 0 <= client < self.clients:
            raise DataError(
                f"there is no client {client}: the partition has {self.clients}, numbered from 0"
            )
        return slice(self.offsets[client], self.offsets[client + 1])

    def holding_out(self, *, validation: float, test: float, seed: int) -> "Partition":
        """Divide each client's examples at random into the three parts, once and for all.

        A client of n examples has ``floor(n * validation)`` and ``floor(n * test)`` of them held
        out, the counts of `roundel.core.data.split`.

        Args:
            validation: The fraction for validation.
            test: The fraction for the client's own test.
            seed: The experiment's data seed.
        """
        generator = np.random.Generator(np.random.PCG64(derive(seed, "split")))
        shuffled = generator.permutation(self.examples)
        # In this order of places clients stay together, and within a client it is random.
        place = shuffled[grouped(self.owners[shuffled])]
        rank = np.arange(self.examples) - np.repeat(self.offsets[:-1], self.sizes)
        tests, validations = (
            np.repeat(np.floor(self.sizes * share + 1e-9).astype(np.int64), self.sizes)
            for share in (test, validation)
        )
        parts = np.full(self.examples, TRAIN, dtype=np.uint8)
        parts[place[rank < tests + validations]] = VALIDATION
        parts[place[rank < tests]] = TEST
        return replace(self, parts=parts)

    @cached_property
    def sha256(self) -> str:
        """A hash: equal exactly if every example is at the same client, in the same part."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.order.astype("<i8").tobytes())
        digest.update(self.parts.tobytes())
        return digest.hexdigest()

    def label_histograms(self, labels: Tensor) -> Integers:
        """Count each client's examples of each class.

        Args:
            labels: The class number of every example of the pool, shape ``(examples,)``.

        Returns:
            Shape ``(clients, classes)``, where `classes` is the largest class number plus one.

        Raises:
            DataError: The labels are not class numbers.
        """
        numbers = class_numbers(labels)
        classes = int(numbers.max(initial=-1)) + 1
        cells = np.bincount(
            self.owners * classes + numbers[self.order], minlength=self.clients * classes
        )
        return cells.reshape(self.clients, classes)


def grouped(keys: Integers) -> Integers:
    """Return the places of `keys` in ascending order of key, then of place.

    This is a stable argsort. Sorting distinct numbers made of key and place is several times as
    fast.
    """
    count = max(len(keys), 1)
    order: Integers = np.sort(keys * count + np.arange(len(keys))) % count
    return order


def starts(sizes: Integers) -> Integers:
    """Return where pieces of these sizes start, and the end, shape ``(len(sizes) + 1,)``."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
