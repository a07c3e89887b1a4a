"""What both ways to differentiate K clients at once take and return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from roundel.core.job import LocalContext

Tensors = Mapping[str, Tensor]
"""A model's tensors by name, each with a leading axis of clients, contiguous."""


@dataclass(frozen=True, kw_only=True)
class StackedBatch:
    """One batch of each of K clients.

    Attributes:
        inputs: Shape ``(K, B, ...)``.
        targets: Shape ``(K, B, ...)``.
        weights: What each example counts in its client's mean: one over the size of the client's
            batch, and 0 for rows that only fill up, shape ``(K, B)``. None if all rows count the
            same.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Slope:
    """What K clients' losses are, and where they go down.

    Attributes:
        losses: The task's mean loss of each batch, without loss terms, shape ``(K,)``.
        gradients: The gradients that were wanted, in that order, shape ``(K, *shape)`` each.
        buffers: What the forward pass made of the model's buffers, by name.
    """

    losses: Tensor
    gradients: Sequence[Tensor]
    buffers: Tensors = field(default_factory=dict[str, Tensor])


class Gradients(Protocol):
    """Differentiates the losses of K clients, each at its own parameters.

    Attributes:
        pads: Whether clients whose batches differ in size can share a call, filled up with rows of
            weight 0. Otherwise all rows of a batch count.
    """

    @property
    def pads(self) -> bool:
        """See the class."""
        ...

    def slope(
        self, tensors: Tensors, batch: StackedBatch, context: LocalContext, wanted: Sequence[str]
    ) -> Slope:
        """Return losses and gradients.

        Args:
            tensors: Where the clients are; not changed.
            batch: What they look at.
            context: Their contexts, stacked.
            wanted: The tensors to differentiate by.
        """
        ...
