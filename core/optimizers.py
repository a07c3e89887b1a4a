"""Client optimizers: any optimizer of `torch.optim`, over slices of the flat vector."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from inspect import signature
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from roundel.core.errors import ConfigError
from roundel.core.params import ParamSpec
from roundel.core.suggest import suggest

Option = float | int | bool | str | Sequence[float]

_KNOWN: Mapping[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
}

# Whether coordinates are updated independently of each other. For these one flat vector and many
# small tensors give the same result, and the vector is several times faster.
_ELEMENTWISE = frozenset(
    {"sgd", "asgd", "adam", "adamw", "adamax", "nadam", "radam"}
    | {"adagrad", "adadelta", "rmsprop", "rprop"}
)

_JOINED = 1 << 14
"""How long tensors that are moved as one may be: their gradients are copied together first."""


@cache
def _options_of(name: str) -> Collection[str]:
    """Return the names of an optimizer's options, which take long to look up."""
    return signature(_KNOWN[name]).parameters.keys()


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Which optimizer a client uses and how.

    Attributes:
        name: The class's name in `torch.optim`, in any case.
        lr: The learning rate of this round.
        momentum: Heavy-ball momentum, for optimizers that have it.
        nesterov: Whether the momentum looks ahead.
        weight_decay: L2 penalty (decoupled for AdamW); 0 is none, whatever torch's default is.
        options: Further keyword arguments, such as ``{"betas": [0.9, 0.99]}``.

    Raises:
        ConfigError: The name is unknown, or an option is not one of that optimizer.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])

    def __post_init__(self) -> None:
        kind = _KNOWN.get(self.name.lower())
        if kind is None:
            raise ConfigError(
                f"client.optimizer = {self.name!r} is not in torch.optim; "
                f"{suggest(self.name.lower(), _KNOWN)}"
            )
        if kind is torch.optim.SparseAdam:
            raise ConfigError(
                f"client.optimizer = {self.name!r} takes sparse gradients, and those of a vector "
                "are dense; use 'adam'"
            )
        accepted = _options_of(self.name.lower())
        for option in self._given():
            if option not in accepted:
                raise ConfigError(
                    f"client.optimizer = {self.name!r} has no option {option!r}; "
                    f"{suggest(option, [n for n in accepted if n != 'params'])}"
                )

    def _given(self) -> dict[str, Any]:
        given: dict[str, Any] = dict(self.options)
        for option in ("momentum", "nesterov", "weight_decay"):
            if value := getattr(self, option):
                given[option] = value
        if "weight_decay" in _options_of(self.name.lower()):
            given.setdefault("weight_decay", self.weight_decay)  # some have defaults above 0
        return given

    def build(self, pieces: Sequence[nn.Parameter]) -> "Stepper":
        """Return a new optimizer over the pieces, without any state from before.

        Raises:
            ConfigError: The optimizer refuses a value.
        """
        make = cast("Callable[..., Stepper]", _KNOWN[self.name.lower()])
        in_range = min(self.lr, self.momentum, self.weight_decay) >= 0
        if make is torch.optim.SGD and not self.options and in_range:
            return FlatSgd(pieces, self)
        try:
            return make(pieces, lr=self.lr, **self._given())
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"client.optimizer = {self.name!r} refuses its options: {error}"
            ) from error

    @property
    def is_elementwise(self) -> bool:
        """Whether it moves each number by itself, so that tensors can be joined or stacked."""
        return self.name.lower() in _ELEMENTWISE

    def pieces(self, spec: ParamSpec, names: Sequence[str]) -> list[tuple[slice, tuple[int, ...]]]:
        """Return the parts of the vector that this optimizer moves as one tensor each.

        Args:
            spec: The model's layout.
            names: The trainable tensors to move.

        Returns:
            Slice of the vector and shape, in the order of the vector. An optimizer that treats
            coordinates alike gets small neighbouring tensors as one flat piece, and each large one
            as another; one that looks at matrices (Muon, Adafactor) gets each tensor in its shape.
        """
        chosen = set(names)
        parts: list[tuple[slice, tuple[int, ...]]] = []
        start = 0
        for entry in spec.entries:
            end = start + entry.numel
            if entry.name in chosen and entry.numel:
                before = parts[-1][0] if parts else slice(start, start)
                if not self.is_elementwise:
                    parts.append((slice(start, end), entry.shape))
                elif parts and before.stop == start and end - before.start <= _JOINED:
                    parts[-1] = (slice(before.start, end), (end - before.start,))
                else:
                    parts.append((slice(start, end), (entry.numel,)))
            start = end
        return parts

    def impulse(self, steps: int, pull: float = 0.0, start: float = 0.0) -> float:
        """Return how far from 0 steps move a coordinate whose gradient is always 1.

        For plain SGD it is ``lr * steps``; with momentum it is ``lr`` times the norm of FedNova's
        vector ``a``. Dividing a displacement by it gives back the average gradient, which is what
        SCAFFOLD and FedNova need. Weight decay is not part of it: decay is part of the gradient.
        For optimizers that rescale gradients it is only how far they would go, which FedNova takes
        as the length of a client's way.

        Args:
            steps: How many.
            pull: The gradient is ``1 - pull * distance``: corrections pull back to the origin.
            start: How far the coordinate had come before.
        """
        plain = self.name.lower() == "sgd" and not self.momentum and not self.options
        if plain and pull == 0.0:
            return start + self.lr * steps
        shape = (1,) if self.is_elementwise else (1, 1)
        point = nn.Parameter(torch.full(shape, -start, dtype=torch.float64))
        options = {name: value for name, value in self.options.items() if name != "weight_decay"}
        optimizer = replace(self, weight_decay=0.0, options=options).build([point])

        def closure() -> Tensor:
            point.grad = 1.0 + pull * point.detach()
            return point.detach().sum()

        for _ in range(steps):
            optimizer.step(closure)
        return -float(point.detach())


class Stepper(Protocol):
    """What the learning loop asks of an optimizer."""

    def step(self, closure: Callable[[], Tensor], /) -> object:
        """Call `closure`, which sets the gradients, and move the parameters."""
        ...


class FlatSgd:
    """`torch.optim.SGD` without its bookkeeping: the same operations, hence the same bits.

    On small models half of a step of the stock optimizer is bookkeeping, and its first step loads
    torch's compiler, which takes a second.
    """

    def __init__(self, pieces: Sequence[Tensor], spec: OptimizerSpec) -> None:
        if spec.nesterov and not spec.momentum:
            raise ConfigError("client.nesterov = true needs client.momentum above 0")
        self._pieces = pieces
        self._spec = spec
        self._velocities: list[Tensor] = []

    def step(self, closure: Callable[[], Tensor], /) -> None:
        """Call `closure` and move the parameters against their gradients."""
        closure()
        with torch.no_grad():
            self.move([piece.grad for piece in self._pieces if piece.grad is not None])

    def move(self, gradients: Sequence[Tensor]) -> None:
        """Move the pieces against gradients of their shapes; call it without autograd."""
        spec = self._spec
        if spec.weight_decay:
            gradients = [
                g.add(piece, alpha=spec.weight_decay)
                for g, piece in zip(gradients, self._pieces, strict=True)
            ]
        if spec.momentum:
            gradients = self._with_momentum(gradients)
        for piece, gradient in zip(self._pieces, gradients, strict=True):
            piece.add_(gradient, alpha=-spec.lr)

    def narrow(self, active: int) -> None:
        """Go on with the first rows of all pieces alone."""
        self._pieces = [piece[:active] for piece in self._pieces]
        self._velocities = [velocity[:active] for velocity in self._velocities]

    def _with_momentum(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        momentum = self._spec.momentum
        if self._velocities:
            for velocity, gradient in zip(self._velocities, gradients, strict=True):
                velocity.mul_(momentum).add_(gradient)
        else:
            self._velocities = [gradient.clone() for gradient in gradients]
        if not self._spec.nesterov:
            return self._velocities
        return [
            gradient.add(velocity, alpha=momentum)
            for gradient, velocity in zip(gradients, self._velocities, strict=True)
        ]


def as_pieces(vector: Tensor, parts: Sequence[tuple[slice, tuple[int, ...]]]) -> list[nn.Parameter]:
    """Return parameters that share the vector's memory, one for each part."""
    return [nn.Parameter(vector[where].view(shape)) for where, shape in parts]
