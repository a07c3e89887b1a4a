"""Examples, and how they are spread over clients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from roundel.core.errors import DataError

Pair = tuple[Tensor, Tensor | int | float]
"""An input and its target."""


@dataclass(frozen=True)
class Examples:
    """Inputs and targets side by side, one row an example.

    Attributes:
        inputs: Shape ``(N, ...)``.
        targets: Shape ``(N, ...)``.
        users: Whose each example is, for a natural partition: user numbers from 0, int64, shape
            ``(N,)``; None if the source does not say.
    """

    inputs: Tensor
    targets: Tensor
    users: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):
            if not isinstance(held := getattr(self, name), Tensor):
                raise DataError(
                    f"the {name} of examples are of type {type(held).__name__} and not a tensor; "
                    "make them one with torch.as_tensor"
                )
        if self.users is not None and self.users.shape != self.targets.shape[:1]:
            raise DataError(
                f"users of shape {tuple(self.users.shape)} do not go with {len(self.targets)} "
                "examples: give one user number for each"
            )
        if self.inputs.shape[0] != self.targets.shape[0]:
            raise DataError(
                f"{len(self.inputs)} inputs and {len(self.targets)} targets do not pair up: "
                "give one target for each input"
            )

    def __len__(self) -> int:
        return self.targets.shape[0]

    def take(self, rows: Tensor) -> "Examples":
        """Return the examples of the given row numbers, copied, in that order, without users."""
        return Examples(self.inputs[rows], self.targets[rows])

    def to(self, device: torch.device) -> "Examples":
        """Return the examples on a device; those that are there already as they are."""
        if self.inputs.device == self.targets.device == device:
            return self
        return Examples(self.inputs.to(device), self.targets.to(device), self.users)

    @classmethod
    def stack(cls, dataset: "Dataset[Any] | Iterable[Pair]") -> "Examples":
        """Read a torch ``Dataset`` (or any iterable of pairs) into memory once.

        Raises:
            DataError: It is empty, or its examples have different shapes.
        """
        pairs = _pairs(dataset)
        if not pairs:
            raise DataError("the dataset has no examples: nothing can be learned from it")
        try:
            inputs = torch.stack([torch.as_tensor(x) for x, _ in pairs])
            targets = torch.stack([torch.as_tensor(y) for _, y in pairs])
        except RuntimeError as error:
            raise DataError(
                f"the dataset's examples do not stack to one tensor ({error}): bring them to one "
                "shape first"
            ) from error
        return cls(inputs, targets)


@dataclass(frozen=True, kw_only=True)
class ClientData:
    """What one client holds. The three parts never overlap.

    Attributes:
        train: What it trains on.
        validation: For choosing hyper-parameters; may be empty.
        test: For its own held-out figures; may be empty.
    """

    train: Examples
    validation: Examples
    test: Examples

    @classmethod
    def of(
        cls, train: Examples, *, validation: Examples | None = None, test: Examples | None = None
    ) -> "ClientData":
        """Make a client's data; parts that are not given are empty."""
        none = train.take(torch.empty(0, dtype=torch.int64))
        return cls(
            train=train,
            validation=none if validation is None else validation,
            test=none if test is None else test,
        )


@runtime_checkable
class Population(Protocol):
    """The clients of a federation and their data, made on demand.

    `client` must be a pure function of the client's number, so that a population of a million
    costs nothing until a client is asked for.
    """

    @property
    def size(self) -> int:
        """How many clients there are; their numbers are ``range(size)``."""
        ...

    def client(self, client_id: int) -> ClientData:
        """Return one client's data.

        Raises:
            DataError: Its data cannot be read.
        """
        ...


@dataclass(frozen=True)
class InMemoryPopulation:
    """A population whose clients' data is at hand, for tests and small studies."""

    clients: Sequence[ClientData]

    @property
    def size(self) -> int:
        """How many clients there are."""
        return len(self.clients)

    def client(self, client_id: int) -> ClientData:
        """Return one client's data."""
        return self.clients[client_id]

    @classmethod
    def of(cls, train: Iterable[Examples]) -> "InMemoryPopulation":
        """Make a population that holds nothing out: all examples are for training."""
        return cls([ClientData.of(examples) for examples in train])


def split(
    examples: Examples, *, validation: float, test: float, generator: torch.Generator
) -> ClientData:
    """Divide examples at random into the three parts that never mix.

    Args:
        examples: All examples of one client.
        validation: The fraction to hold out for validation, rounded down.
        test: The fraction to hold out for testing, rounded down.
        generator: Decides which example goes where.
    """
    train, validation_rows, test_rows = split_rows(
        len(examples), validation=validation, test=test, generator=generator
    )
    return ClientData(
        train=examples.take(train),
        validation=examples.take(validation_rows),
        test=examples.take(test_rows),
    )


def split_rows(
    count: int, *, validation: float, test: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide row numbers as `split` divides examples.

    Args:
        count: How many examples there are.
        validation: As for `split`.
        test: Likewise.
        generator: Likewise.

    Returns:
        The rows to train on, to validate on and to test on, int64, each ascending.
    """
    order = torch.randperm(count, generator=generator)
    held_test, held_validation = (int(count * share + 1e-9) for share in (test, validation))
    parts = order.split([held_test, held_validation, count - held_test - held_validation])
    test_rows, validation_rows, train_rows = (part.sort().values for part in parts)
    return train_rows, validation_rows, test_rows


def _pairs(dataset: "Dataset[Any] | Iterable[Pair]") -> list[Pair]:
    if isinstance(dataset, Iterable):
        return list(dataset)
    # A map-style dataset need not raise IndexError at its end: its length says where that is.
    return [dataset[index] for index in range(len(dataset))]  # type: ignore[arg-type]
