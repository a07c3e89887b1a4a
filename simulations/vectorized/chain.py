"""Models that are chains of plain layers, differentiated by hand.

For small models the cost of a step is what happens between operations. Here a step of K clients is
a dozen operations on stacks, and plain SGD needs no gradient at all: it is added to the weights by
the operation that would have found it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from roundel.core.job import LocalContext
from roundel.simulations.vectorized.layers import (
    SIGMOID,
    TANH,
    Dropout,
    Flatten,
    Gelu,
    Layer,
    Linear,
    relu,
)
from roundel.simulations.vectorized.losses import StackedLoss
from roundel.simulations.vectorized.slope import Slope, StackedBatch, Tensors

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

        def collect(layer: Linear, gradient: Tensor, kept: Tensor) -> None:
            found.update(layer.gradients(gradient, kept))

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

        def move(layer: Linear, gradient: Tensor, kept: Tensor) -> None:
            layer.descend(gradient, kept, moved, lr)

        return self._back(tensors, batch, list(moved), move)

    def _back(
        self,
        tensors: Tensors,
        batch: StackedBatch,
        wanted: Sequence[str],
        use: Callable[[Linear, Tensor, Tensor], None],
    ) -> Tensor:
        """Run forward and back, and hand each wanted linear layer its gradient by the outputs."""
        outputs, kept = batch.inputs, list[Tensor]()
        for layer in self._layers:
            outputs, one = layer.forward(outputs, tensors)
            kept.append(one)
        losses, gradient = self._loss.slope(outputs, batch)
        lowest = self._lowest(wanted)
        for place in reversed(range(lowest, len(self._layers))):
            layer, below = self._layers[place], gradient
            if place > lowest:
                below = layer.backward(gradient, kept[place], tensors)
            if isinstance(layer, Linear):
                use(layer, gradient, kept[place])
            gradient = below
        return losses

    def _lowest(self, wanted: Sequence[str]) -> int:
        """Return the first layer that has a wanted tensor."""
        return next(
            place
            for place, layer in enumerate(self._layers)
            if isinstance(layer, Linear) and not set(wanted).isdisjoint(layer.names)
        )


def is_chain(model: nn.Module) -> bool:
    """Tell whether a model is a chain of plain layers, whose steps are cheapest."""
    return layers_of(model) is not None


def layers_of(model: nn.Module) -> list[Layer] | None:
    """Return a model as a chain of layers; None if it is none, or has layers not known here.

    Only modules of exactly the known classes count, without hooks, with nothing frozen, shared
    between layers or kept in buffers.
    """
    layers: list[Layer] = []
    for name, module in _links(model, ""):
        if _is_plain(module, nn.Identity):
            continue
        layer = _layer(name, module, fresh=bool(layers) and isinstance(layers[-1], Linear))
        if layer is None:
            return None
        layers.append(layer)
    known = [name for layer in layers if isinstance(layer, Linear) for name in layer.names]
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
    match module:
        case nn.Linear() if type(module) is nn.Linear:
            weight, bias = (f"{name}.{own}" if name else own for own in ("weight", "bias"))
            has_bias = dict(module.named_parameters()).keys() == {"weight", "bias"}
            return Linear(weight=weight, bias=bias if has_bias else None)
        case nn.ReLU() if type(module) is nn.ReLU:
            return relu(fresh=fresh)
        case nn.GELU() if type(module) is nn.GELU:
            return Gelu(approximate=module.approximate)
        case nn.Flatten(start_dim=1, end_dim=-1) if type(module) is nn.Flatten:
            return Flatten()
        case nn.Dropout() if type(module) is nn.Dropout:
            return Dropout(layer=module)
        case _:
            return _ACTIVATIONS.get(type(module))


_ACTIVATIONS: Mapping[type[nn.Module], Layer] = {nn.Tanh: TANH, nn.Sigmoid: SIGMOID}
