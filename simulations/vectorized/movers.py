"""Optimizers over stacks: each client moves as if it were alone."""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from roundel.core.optimizers import FlatSgd, OptimizerSpec, Stepper


def is_plain(optimizer: OptimizerSpec) -> bool:
    """Tell whether a step is ``x -= lr * g`` and nothing else."""
    more = (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay, optimizer.options)
    return optimizer.name.lower() == "sgd" and not any(more)


def goes_by_signs(optimizer: OptimizerSpec) -> bool:
    """Tell whether a number moves by what signs its gradients had, and by nothing else of them.

    The sign of a gradient that is 0 but for rounding is anyone's guess, and a stack rounds
    differently.
    """
    return optimizer.name.lower() == "rprop"


class Mover(Protocol):
    """An optimizer at work on stacks of shape ``(K, *shape)``."""

    def move(self, gradients: Sequence[Tensor]) -> None:
        """Take a step of all clients, in place."""
        ...

    def narrow(self, active: int) -> None:
        """Go on with the first `active` clients alone."""
        ...


def mover(optimizer: OptimizerSpec, stacks: Sequence[Tensor]) -> Mover:
    """Return an optimizer without any state from before.

    Raises:
        ConfigError: The optimizer refuses a value.
    """
    parameters = [nn.Parameter(stack) for stack in stacks]
    stepper = optimizer.build(parameters)
    if isinstance(stepper, FlatSgd):
        return FlatSgd(stacks, optimizer)
    return _Stock(stepper, parameters)


class _Stock:
    """An optimizer of `torch.optim`.

    What it keeps of a tensor has the tensor's shape, hence a row for each client, or is one number
    that all clients share, such as the count of steps.
    """

    def __init__(self, stepper: Stepper, parameters: Sequence[nn.Parameter]) -> None:
        self._stepper = stepper
        self._parameters = parameters

    def move(self, gradients: Sequence[Tensor]) -> None:
        def closure() -> Tensor:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            return gradients[0].new_zeros(())

        self._stepper.step(closure)

    def narrow(self, active: int) -> None:
        kept = cast("torch.optim.Optimizer", self._stepper).state
        for parameter in self._parameters:
            parameter.grad = None
            parameter.data = parameter.data[:active]
            for name, value in kept.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.dim():
                    kept[parameter][name] = value[:active]
