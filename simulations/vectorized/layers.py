"""Plain layers, forward and backward, on K clients at once.

Every tensor has the shape ``(K, B, ...)``. What a layer needs for its way back it returns beside
its outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from roundel.simulations.vectorized.slope import Tensors

_aten = torch.ops.aten

Kept = tuple[Tensor, ...]
"""What a layer needs for its way back."""


class Layer(Protocol):
    """One link of a chain."""

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and what `backward` needs."""
        ...

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs from the one by the outputs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``x W' + b`` along the last axis.

    Attributes:
        weight: The name of W, shape ``(K, out, in)``.
        bias: The name of b, shape ``(K, out)``; None for none.
    """

    weight: str
    bias: str | None

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and the inputs."""
        rows, weight = _rows(inputs), tensors[self.weight]
        if self.bias is None:
            outputs = torch.bmm(rows, weight.mT)
        else:
            outputs = torch.baddbmm(tensors[self.bias].unsqueeze(1), rows, weight.mT)
        return _in_shape(outputs, inputs), (inputs,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        return _in_shape(torch.bmm(_rows(gradient), tensors[self.weight]), kept[0])

    def gradients(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> dict[str, Tensor]:
        """Return the gradients by W and b."""
        rows = _rows(gradient)
        found = {self.weight: torch.bmm(rows.mT, _rows(kept[0]))}
        return found if self.bias is None else {**found, self.bias: rows.sum(1)}

    def descend(
        self, gradient: Tensor, kept: Kept, tensors: Tensors, moved: Tensors, lr: float
    ) -> None:
        """Take a step of plain SGD in one operation each, without writing the gradient down.

        Args:
            gradient: By the outputs.
            kept: The inputs.
            tensors: All of the clients'.
            moved: The tensors to move, changed in place; others stay.
            lr: The learning rate.
        """
        rows = _rows(gradient)
        if self.weight in moved:
            moved[self.weight].baddbmm_(rows.mT, _rows(kept[0]), beta=1, alpha=-lr)
        if self.bias is not None and self.bias in moved:
            moved[self.bias].sub_(rows.sum(1), alpha=lr)


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A function of each number whose derivative follows from its outputs.

    Attributes:
        apply: Inputs to outputs.
        derive: Gradient by the outputs, and outputs, to the gradient by the inputs.
    """

    apply: Callable[[Tensor], Tensor]
    derive: Callable[[Tensor, Tensor], Tensor]

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, twice."""
        outputs = self.apply(inputs)
        return outputs, (outputs,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        return self.derive(gradient, *kept)


@dataclass(frozen=True, kw_only=True)
class Gelu:
    """The Gaussian error linear unit.

    Attributes:
        approximate: As in ``nn.GELU``.
    """

    approximate: str

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and the inputs."""
        return nn.functional.gelu(inputs, approximate=self.approximate), (inputs,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        derived: Tensor = _aten.gelu_backward(gradient, *kept, approximate=self.approximate)
        return derived


class Flatten:
    """Makes one axis of all but clients and examples."""

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and the inputs."""
        return inputs.flatten(2), (inputs,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        return gradient.reshape(kept[0].shape)


@dataclass(frozen=True, kw_only=True)
class Unflatten:
    """Makes several axes of the first one behind clients and examples.

    Attributes:
        sizes: Theirs.
    """

    sizes: tuple[int, ...]

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and the inputs."""
        return inputs.unflatten(2, self.sizes), (inputs,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        return gradient.reshape(kept[0].shape)


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Drops numbers by torch's global generator, other ones for each client and example.

    Attributes:
        layer: Says how many, and whether it is in training mode.
    """

    layer: nn.Dropout

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and by what each number was multiplied."""
        if not self.layer.training:
            return inputs, (inputs.new_ones(()),)
        share = 1.0 - self.layer.p
        factors = torch.empty_like(inputs).bernoulli_(share)
        if share:
            factors.div_(share)
        return inputs * factors, (factors,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        return gradient * kept[0]


def _rows(tensor: Tensor) -> Tensor:
    """Return ``(K, B, ..., F)`` as ``(K, rows, F)``; views cost as much as small products."""
    return tensor if tensor.dim() == _ROWS_AXES else tensor.flatten(1, -2)


def _in_shape(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows ``(K, rows, F)`` in the shape of other numbers, up to F."""
    return rows if like.dim() == _ROWS_AXES else rows.view(*like.shape[:-1], -1)


_ROWS_AXES = 3


def relu(*, fresh: bool) -> Activation:
    """Return ReLU.

    Args:
        fresh: Whether nobody else needs its inputs, so that it may write over them.
    """
    return Activation(apply=torch.relu_ if fresh else torch.relu, derive=_after_relu)


def is_relu(layer: Layer) -> bool:
    """Tell whether a layer is ReLU."""
    return isinstance(layer, Activation) and layer.derive is _after_relu


def _after_relu(gradient: Tensor, outputs: Tensor) -> Tensor:
    derived: Tensor = _aten.threshold_backward(gradient, outputs, 0)
    return derived


TANH = Activation(apply=torch.tanh, derive=_aten.tanh_backward)
SIGMOID = Activation(apply=torch.sigmoid, derive=_aten.sigmoid_backward)
