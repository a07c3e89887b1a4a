"""A model is one flat vector plus a `ParamSpec` that says which slice is what.

The vector has shape ``(D,)`` and is laid out by role, so that everything an algorithm asks for is
one slice:

    | shared buffers | shared trainable | personal trainable | personal buffers |
    |------------- shared -------------|------------- personal --------------- |
                     |------------- trainable --------------|

*Buffers* here are floating-point buffers such as BatchNorm's running statistics. Integer buffers
(counters) travel apart, in an int64 vector. Frozen parameters (``requires_grad=False``) are part of
the model and not of the vector: they are never trained, sent or averaged.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod

import torch
from blake3 import blake3
from torch import Tensor, nn

from roundel.core.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named tensor of the model.

    Attributes:
        name: Its name in the model's state dict.
        shape: Its shape.
        dtype: The model's own dtype, restored when a vector is loaded into a model.
        trainable: Whether an optimizer moves it; a buffer otherwise.
        personal: Whether it stays with the client; shared otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    trainable: bool
    personal: bool = False

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class ParamSpec:
    """The layout of a model's vector.

    Attributes:
        entries: The floating-point tensors, in the order of the vector.
        integers: The integer buffers, in the order of the integer vector: shared ones, then
            personal ones.
        dtype: The vector's dtype: float64 if the model has float64 tensors, else float32.
    """

    entries: tuple[Entry, ...]
    integers: tuple[Entry, ...] = ()
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, model: nn.Module, personal: Callable[[str], bool] | None = None) -> "ParamSpec":
        """Read the layout off a model.

        Args:
            model: Any module. Tied parameters count once; non-persistent buffers are left out.
            personal: Tells from a name whether that tensor stays with the client.

        Raises:
            ParameterError: The model has nothing to train, a dtype that cannot be averaged, or one
                tensor of two names of which only one is personal.
        """
        persistent = set(model.state_dict(keep_vars=True))
        parameters = [(n, p, True) for n, p in model.named_parameters() if p.requires_grad]
        buffers = [(n, b, False) for n, b in model.named_buffers() if n in persistent]
        is_personal = personal or (lambda _name: False)
        _check_tied(model, is_personal)
        tensors = [
            (
                Entry(
                    name=name,
                    shape=tuple(tensor.shape),
                    dtype=tensor.dtype,
                    trainable=trainable,
                    personal=is_personal(name),
                ),
                tensor,
            )
            for name, tensor, trainable in chain(parameters, buffers)
        ]
        if not parameters:
            raise ParameterError(
                f"the model {type(model).__name__} has no parameter with requires_grad=True: "
                "nothing would be trained"
            )
        for entry, tensor in tensors:
            if tensor.is_complex():
                raise ParameterError(
                    f"parameter {entry.name!r} has dtype {entry.dtype}: complex tensors cannot be "
                    "put in a vector of floats; store the real and imaginary parts as two tensors"
                )
        floats = [e for e, t in tensors if t.is_floating_point()]
        wide = any(e.dtype == torch.float64 for e in floats)
        return cls(
            entries=tuple(sorted(floats, key=_role)),
            integers=tuple(sorted((e for e, t in tensors if not t.is_floating_point()), key=_role)),
            dtype=torch.float64 if wide else torch.float32,
        )

    @cached_property
    def _role_ends(self) -> tuple[int, ...]:
        """Where each of the four roles ends in the vector."""
        sizes = [0, 0, 0, 0]
        for entry in self.entries:
            sizes[_role(entry)] += entry.numel
        ends = [sum(sizes[: i + 1]) for i in range(4)]
        return tuple(ends)

    @property
    def size(self) -> int:
        """D, the length of the vector."""
        return self._role_ends[3]

    @cached_property
    def integer_size(self) -> int:
        """The length of the integer vector."""
        return sum(e.numel for e in self.integers)

    @cached_property
    def shared_integers(self) -> slice:
        """What client and server exchange of the integer vector; the rest stays with the client."""
        return slice(0, sum(e.numel for e in self.integers if not e.personal))

    @property
    def shared(self) -> slice:
        """What client and server exchange: shared buffers, then shared trainable."""
        return slice(0, self._role_ends[1])

    @property
    def personal(self) -> slice:
        """What stays with the client."""
        return slice(self._role_ends[1], self._role_ends[3])

    @property
    def trainable(self) -> slice:
        """What optimizers move, shared and personal."""
        return slice(self._role_ends[0], self._role_ends[2])

    @property
    def shared_buffers(self) -> slice:
        """Float buffers: averaged, and touched by nothing else."""
        return slice(0, self._role_ends[0])

    @property
    def shared_trainable(self) -> slice:
        """What strategies work on: the vector of the paper's formulas."""
        return slice(self._role_ends[0], self._role_ends[1])

    def completed(
        self, shared: Tensor, integers: Tensor, source: Tensor, source_integers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put the personal part of one model behind the shared part of another.

        Args:
            shared: Shape ``(S,)``.
            integers: The shared integer buffers.
            source: Has the personal part, shape ``(D,)``.
            source_integers: Likewise, shape ``(integer_size,)``.

        Returns:
            The vector, shape ``(D,)``, and the integer vector.
        """
        rest = source_integers[self.shared_integers.stop :]
        return torch.cat([shared, source[self.personal]]), torch.cat([integers, rest])

    @cached_property
    def _sizes(self) -> list[int]:
        return [e.numel for e in self.entries]

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the named tensors of a vector, without copying.

        Args:
            vector: Shape ``(..., D)``; leading axes (clients) are kept.

        Returns:
            Name to tensor of shape ``(..., *shape)``, in the vector's dtype.

        Raises:
            ParameterError: The last axis is not D long.
        """
        lead = vector.shape[:-1]
        if vector.dim() == 0 or vector.shape[-1] != self.size:
            raise ParameterError(
                f"a vector of shape {tuple(vector.shape)} does not fit this model, "
                f"whose vectors end in an axis of {self.size}"
            )
        pieces = vector.split(self._sizes, dim=-1)
        return {
            e.name: piece.view(lead + e.shape)
            for e, piece in zip(self.entries, pieces, strict=True)
        }

    def slice_of(self, name: str) -> slice:
        """Return where the named tensor lies in the vector.

        Raises:
            ParameterError: The model has no such tensor.
        """
        start = 0
        for entry in self.entries:
            if entry.name == name:
                return slice(start, start + entry.numel)
            start += entry.numel
        raise ParameterError(
            f"the model has no tensor {name!r}; it has {', '.join(e.name for e in self.entries)}"
        )

    def read(self, model: nn.Module, bound: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Copy a model's tensors into new vectors.

        Args:
            model: A model of this layout.
            bound: What its floating-point tensors were views of; if they still are, nothing is
                copied and this is what is returned.

        Returns:
            The vector ``(D,)`` in `dtype`, and the integer vector, int64.
        """
        tensors = named_tensors(model)
        with torch.no_grad():
            integers = [tensors[e.name].reshape(-1).to(torch.int64) for e in self.integers]
            if bound is not None and self._is_bound(tensors, bound):
                vector = bound
            else:
                floats = [tensors[e.name].reshape(-1).to(self.dtype) for e in self.entries]
                vector = torch.cat(floats)
            return vector, torch.cat([vector.new_empty(0, dtype=torch.int64), *integers])

    def _is_bound(self, tensors: Mapping[str, Tensor], vector: Tensor) -> bool:
        """Tell whether all of a model's floating-point tensors are views of a vector."""
        return all(
            (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            == (view.data_ptr(), view.dtype, view.shape, view.stride())
            for name, view in self.views(vector).items()
            for tensor in [tensors[name]]
        )

    def write(self, model: nn.Module, vector: Tensor, integers: Tensor) -> None:
        """Copy vectors into a model, in the model's own dtypes.

        Args:
            model: A model of this layout.
            vector: Shape ``(D,)``.
            integers: Shape ``(integer_size,)``, int64.

        Raises:
            ParameterError: A shape does not fit.
        """
        if integers.shape != (self.integer_size,):
            raise ParameterError(
                f"an integer vector of shape {tuple(integers.shape)} does not fit this model, "
                f"which has {self.integer_size} integers"
            )
        if vector.dim() != 1:
            raise ParameterError(
                f"a vector of shape {tuple(vector.shape)} does not fit one model; write one row "
                "at a time"
            )
        tensors = named_tensors(model)
        pieces = integers.split([e.numel for e in self.integers])
        values = self.views(vector) | {
            e.name: piece.view(e.shape) for e, piece in zip(self.integers, pieces, strict=True)
        }
        with torch.no_grad():
            for name, value in values.items():
                tensors[name].copy_(value)

    def bind(self, model: nn.Module, vector: Tensor) -> None:
        """Make a model's floating-point tensors views of a vector, in the vector's dtype.

        From then on, writing the vector *is* writing the model.

        Args:
            model: A model of this layout; changed in place.
            vector: Shape ``(D,)``, contiguous.
        """
        model.to(self.dtype)
        tensors = named_tensors(model)
        for name, view in self.views(vector).items():
            tensors[name].data = view

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, shapes, dtypes and roles; equal for models that can be averaged."""
        text = repr((self.entries, self.integers, self.dtype))
        return hashlib.sha256(text.encode()).hexdigest()


def _check_tied(model: nn.Module, is_personal: Callable[[str], bool]) -> None:
    """Refuse a tensor that has two names, one shared and one personal."""
    first: dict[Tensor, str] = {}
    for name, tensor in chain(
        ((n, p) for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad),
        model.named_buffers(remove_duplicate=False),
    ):
        other = first.setdefault(tensor, name)
        if is_personal(other) != is_personal(name):
            kept, sent = (name, other) if is_personal(name) else (other, name)
            raise ParameterError(
                f"{kept!r} is to stay with the client and {sent!r} is shared, and they are one "
                f"tensor of {type(model).__name__}: name both of them or neither, or do not tie "
                "them"
            )


def params_sha256(params: Tensor, integers: Tensor) -> str:
    """Return the hash that two runs compare: of the bytes of the shared parameters.

    Args:
        params: The shared part of the vector, on the CPU.
        integers: The integer vector, int64.
    """
    digest = hashlib.sha256(bytes_of(params))
    digest.update(bytes_of(integers))
    return digest.hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Return a hash of named tensors: names, dtypes, shapes and bytes.

    Args:
        tensors: On the CPU, in any order.
        about: Goes into the hash too.
    """
    return _hashed(hashlib.sha256(), tensors, about)


def tensors_blake3(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Return another hash of the same, of as many bits, that takes a tenth of the time."""
    return _hashed(blake3(), tensors, about)


def _hashed(digest: "hashlib._Hash | blake3", tensors: Mapping[str, Tensor], about: str) -> str:
    digest.update(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the raw little-endian bytes of a contiguous CPU tensor, without copying."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


def _role(entry: Entry) -> int:
    """Order of the four roles in the vector."""
    if entry.personal:
        return 2 if entry.trainable else 3
    return 1 if entry.trainable else 0


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name."""
    return dict(chain(model.named_parameters(), model.named_buffers()))
