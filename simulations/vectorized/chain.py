"""Models that are chains of plain layers, differentiated by hand.

For small models the cost of a step is what happens between operations. Here a step of K clients is
a dozen operations on stacks, and plain SGD needs no gradient at all: it is added to the weights by
the operation that would have found it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.job import LocalContext
from roundel.core.learning import CPU
from roundel.simulations.vectorized.images import Convolution, MaxPool
from roundel.simulations.vectorized.layers import (
    SIGMOID,
    TANH,
    Dropout,
    Flatten,
    Gelu,
    Kept,
    Layer,
    Linear,
    Unflatten,
    is_relu,
    relu,
)
from roundel.simulations.vectorized.losses import StackedLoss
from roundel.simulations.vectorized.slope import Slope, StackedBatch, Tensors

Weighted = Linear | Convolution
"""A layer with tensors of its own."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Chain:
    """Differentiates a chain of layers."""

    def __init__(self, layers: Sequence[Layer], loss: StackedLoss) -> None:
        """Make it from a model's layers, see `layers_of`, and its task's loss."""
        self._layers = layers
        self._loss = loss

    @property
    def pads(self) -> bool:
        """See `Gradients`."""
        return self._loss.pads

    def slope(
        self, tensors: Tensors, batch: StackedBatch, context: LocalContext, wanted: Sequence[str]
    ) -> Slope:
        """See `Gradients`."""
        found: dict[str, Tensor] = {}

        def collect(layer: Weighted, gradient: Tensor, kept: Kept) -> None:
            found.update(layer.gradients(gradient, kept, tensors))

        losses = self._back(tensors, batch, wanted, collect)
        return Slope(losses=losses, gradients=[found[name] for name in wanted])

    def descend(self, moved: Tensors, tensors: Tensors, batch: StackedBatch, lr: float) -> Tensor:
        """Take a step of plain SGD and return the losses before it, shape ``(K,)``.

        Args:
            moved: Those of the tensors that it moves, in place.
            tensors: All of them.
            batch: What the clients look at.
            lr: The learning rate.
        """

        def move(layer: Weighted, gradient: Tensor, kept: Kept) -> None:
            layer.descend(gradient, kept, tensors, moved, lr)

        return self._back(tensors, batch, list(moved), move)

    def _back(
        self,
        tensors: Tensors,
        batch: StackedBatch,
        wanted: Sequence[str],
        use: Callable[[Weighted, Tensor, Kept], None],
    ) -> Tensor:
        """Run forward and back, and hand each wanted layer its gradient by the outputs."""
        outputs, kept = batch.inputs, list[Kept]()
        for layer in self._layers:
            outputs, one = layer.forward(outputs, tensors)
            kept.append(one)
        losses, gradient = self._loss.slope(outputs, batch)
        lowest = self._lowest(wanted)
        for place in reversed(range(lowest, len(self._layers))):
            layer, below = self._layers[place], gradient
            if place > lowest:
                below = layer.backward(gradient, kept[place], tensors)
            if isinstance(layer, Weighted):
                use(layer, gradient, kept[place])
            gradient = below
        return losses

    def _lowest(self, wanted: Sequence[str]) -> int:
        """Return the first layer that has a wanted tensor."""
        return next(
            place
            for place, layer in enumerate(self._layers)
            if isinstance(layer, Weighted) and not set(wanted).isdisjoint(_names_of(layer))
        )


LARGEST_TRANSFORMED = 1 << 15
"""Up to so many parameters a model with convolutions is faster transformed by torch, which does
those of many clients at once."""


def convolves(layers: Sequence[Layer]) -> bool:
    """Tell whether there are convolutions in a chain."""
    return any(isinstance(layer, Convolution) for layer in layers)


def layers_of(model: nn.Module, device: torch.device = CPU) -> list[Layer] | None:
    """Return a model as a chain of layers, to be differentiated by hand.

    Only modules of exactly the known classes count, without hooks, with nothing frozen, shared
    between layers or kept in buffers.

    Args:
        model: The model.
        device: Where it is to be trained.

    Returns:
        The layers; None if it is no chain, has layers not known here, or has convolutions that
        torch differentiates faster.
    """
    layers = _layers(model)
    if layers is None or not convolves(layers):
        return layers
    large = sum(each.numel() for each in model.parameters()) > LARGEST_TRANSFORMED
    return layers if large and device.type == "cpu" else None


def _layers(model: nn.Module) -> list[Layer] | None:
    layers: list[Layer] = []
    for name, module in _links(model, ""):
        if _is_plain(module, nn.Identity):
            continue
        layer = _layer(name, module, fresh=bool(layers) and isinstance(layers[-1], Weighted))
        if layer is None:
            return None
        after_relu = bool(layers) and isinstance(layer, MaxPool) and is_relu(layers[-1])
        # The largest number is the same before and after, and there are fewer of them after.
        layers.insert(len(layers) - after_relu, layer)
    known = [name for layer in layers if isinstance(layer, Weighted) for name in _names_of(layer)]
    trained = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
    whole = known == trained and not any(True for _ in model.buffers())
    return layers if whole and known else None


def _links(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that run one after another, by name, as often as they run."""
    if not _is_plain(module, nn.Sequential):
        yield name, module
        return
    for own, part in vars(module)["_modules"].items():  # `named_children` skips what comes again
        yield from _links(part, f"{name}.{own}" if name else own)


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a module is of exactly this class and does nothing besides."""
    own = vars(module)
    return type(module) is kind and "forward" not in own and not any(own[h] for h in _HOOKS)


def _layer(name: str, module: nn.Module, *, fresh: bool) -> Layer | None:
    """Return a module's layer, if it is one that is known here."""
    if not _is_plain(module, type(module)):
        return None
    if type(module) is nn.ReLU:
        return relu(fresh=fresh)
    make = _MAKERS.get(type(module))
    return None if make is None else make(name, module)


def _linear(name: str, module: nn.Linear) -> Linear:
    weight, bias = _named(name, module)
    return Linear(weight=weight, bias=bias)


def _convolution(name: str, module: nn.Conv2d) -> Convolution | None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    weight, bias = _named(name, module)
    return Convolution(
        weight=weight,
        bias=bias,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
    )


def _pool(_name: str, module: nn.MaxPool2d) -> MaxPool | None:
    if module.return_indices:
        return None
    return MaxPool(
        size=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_pair(module.padding),
        dilation=_pair(module.dilation),
        ceil=module.ceil_mode,
    )


def _flatten(_name: str, module: nn.Flatten) -> Flatten | None:
    return Flatten() if (module.start_dim, module.end_dim) == (1, -1) else None


def _unflatten(_name: str, module: nn.Unflatten) -> Unflatten | None:
    sizes = module.unflattened_size
    return Unflatten(sizes=sizes) if module.dim == 1 and isinstance(sizes, tuple) else None


def _named(name: str, module: nn.Module) -> tuple[str, str | None]:
    """Return what a layer's weight and bias are called in the model; None for no bias."""
    weight, bias = (f"{name}.{own}" if name else own for own in ("weight", "bias"))
    has_bias = dict(module.named_parameters()).keys() == {"weight", "bias"}
    return weight, bias if has_bias else None


def _names_of(layer: Weighted) -> list[str]:
    """Return the tensors that a layer has."""
    return [layer.weight] if layer.bias is None else [layer.weight, layer.bias]


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size


_MAKERS: Mapping[type[nn.Module], Callable[[str, Any], Layer | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pool,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.Dropout: lambda _name, module: Dropout(layer=module),
    nn.GELU: lambda _name, module: Gelu(approximate=module.approximate),
    nn.Tanh: lambda _name, _module: TANH,
    nn.Sigmoid: lambda _name, _module: SIGMOID,
}
