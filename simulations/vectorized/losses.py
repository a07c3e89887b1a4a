"""The gradient of a task's loss by a model's outputs, for K clients at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.task import Loss
from roundel.simulations.vectorized.slope import StackedBatch


class StackedLoss(Protocol):
    """A loss and its gradient.

    Attributes:
        pads: As in `Gradients`.
    """

    @property
    def pads(self) -> bool:
        """See the class."""
        ...

    def slope(self, outputs: Tensor, batch: StackedBatch) -> tuple[Tensor, Tensor]:
        """Return losses ``(K,)``, and the gradient by the outputs, in their shape.

        Args:
            outputs: Shape ``(K, B, ...)``.
            batch: Has the targets.
        """
        ...


_FEW = 16
"""Along an axis of fewer numbers torch's softmax is several times slower than across it."""


class CrossEntropy:
    """The mean cross-entropy of scores and class numbers, differentiated by hand."""

    pads = True

    def slope(self, outputs: Tensor, batch: StackedBatch) -> tuple[Tensor, Tensor]:
        """See `StackedLoss`."""
        few = outputs.shape[2] < _FEW
        axis, scores = (1, outputs.mT.contiguous()) if few else (2, outputs)
        places = batch.targets.unsqueeze(axis)
        weights = _weights(batch, outputs).unsqueeze(axis)
        logs = scores.log_softmax(axis)
        losses = -(logs.gather(axis, places) * weights).sum((1, 2))
        gradient = logs.exp_()
        minus = _number(-1.0, outputs.dtype, outputs.device)
        gradient.scatter_add_(axis, places, minus.expand(places.shape))
        gradient.mul_(weights)
        return losses, gradient.mT if few else gradient


class SquaredError:
    """The mean squared error of predictions and targets in one shape, likewise."""

    pads = True

    def slope(self, outputs: Tensor, batch: StackedBatch) -> tuple[Tensor, Tensor]:
        """See `StackedLoss`."""
        away = (outputs - batch.targets).reshape(*outputs.shape[:2], -1)
        weights = _weights(batch, outputs).unsqueeze(2) / away.shape[2]
        losses = (away * away * weights).sum((1, 2))
        return losses, (away * weights).mul_(2.0).view(outputs.shape)


@dataclass(frozen=True)
class AnyLoss:
    """Whatever a task calls its loss, differentiated by torch at the outputs alone.

    Attributes:
        loss: Outputs and targets of one client to a scalar.
    """

    loss: Loss
    pads = False

    def slope(self, outputs: Tensor, batch: StackedBatch) -> tuple[Tensor, Tensor]:
        """See `StackedLoss`."""
        outputs = outputs.detach().requires_grad_()
        with torch.enable_grad():
            losses = vmap(self.loss, randomness="different")(outputs, batch.targets)
            total = losses.sum()  # whose gradient is that of each client: none depends on another
        (gradient,) = torch.autograd.grad(total, [outputs], materialize_grads=True)
        return losses.detach(), gradient


def stacked_loss(
    loss: Loss, examples: Sequence[Examples], outputs: Callable[[Tensor], Tensor]
) -> StackedLoss:
    """Return a task's loss as it is for clients with these examples.

    Args:
        loss: The task's.
        examples: Each client's, of one shape and dtype.
        outputs: Runs the model on inputs; only the shape matters.
    """
    if _is_of_classes(loss, examples):
        return CrossEntropy()
    if _is_squared_error(loss):
        targets = examples[0].targets
        found = outputs(examples[0].inputs[:1])
        if found.shape == targets[:1].shape and found.dtype == targets.dtype:
            return SquaredError()
    return AnyLoss(loss)


def mapped_loss(loss: Loss, examples: Sequence[Examples]) -> Loss:
    """Return a task's loss as `torch.func` maps it best, for clients with these examples."""
    return _class_entropy if _is_of_classes(loss, examples) else loss


def _class_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy without torch's own, which maps in Python.

    Its first call loads torch's compiler, which takes seconds.
    """
    return -outputs.log_softmax(1).gather(1, targets.unsqueeze(1)).mean()


def _weights(batch: StackedBatch, outputs: Tensor) -> Tensor:
    """Return what examples weigh, shape ``(K, B)`` or ``(1, 1)``."""
    if batch.weights is not None:
        return batch.weights
    return _number(1.0 / outputs.shape[1], outputs.dtype, outputs.device).view(1, 1)


@lru_cache(maxsize=64)
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a tensor; making one takes as long as a small product."""
    return torch.tensor(value, dtype=dtype, device=device)


def _is_of_classes(loss: Loss, examples: Sequence[Examples]) -> bool:
    """Tell whether a loss is the mean cross-entropy of one class for each example."""
    targets = examples[0].targets
    if not is_cross_entropy(loss) or targets.dim() != 1 or targets.is_floating_point():
        return False
    # Negative ones may be those that torch leaves out of the mean.
    return int(torch.cat([each.targets for each in examples]).min()) >= 0


def is_cross_entropy(loss: Loss) -> bool:
    """Tell whether a loss is torch's mean cross-entropy, with nothing left out and nothing added.

    Targets of -100 it leaves out all the same.
    """
    if not isinstance(loss, nn.CrossEntropyLoss):
        return loss is functional.cross_entropy
    said = (loss.weight, loss.ignore_index, loss.reduction, loss.label_smoothing)
    return type(loss) is nn.CrossEntropyLoss and said == (None, -100, "mean", 0.0)


def _is_squared_error(loss: Loss) -> bool:
    if not isinstance(loss, nn.MSELoss):
        return loss is functional.mse_loss
    return type(loss) is nn.MSELoss and loss.reduction == "mean"
