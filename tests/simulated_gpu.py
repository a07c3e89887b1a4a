"""A GPU that is not there: its memory is the CPU's, and to mix devices is an error.

    python -m tests.simulated_gpu SETTINGS ...

simulates an experiment on the CPU and on this GPU for each argument, settings with spaces between
them, and prints each time whether the bits are the same, as they must be: the arithmetic is.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from roundel.core.params import ParamSpec
from roundel.simulations import prepare, simulate

_setup_privateuseone_for_python_backend("simulated")
GPU = torch.device("simulated", 0)
CPU = torch.device("cpu")

aten = torch.ops.aten
_MOVES = {aten._to_copy.default, aten.copy_.default}
_INDEXES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class OnGpu(Tensor):
    """A tensor that says it is on the GPU, and has its numbers in a tensor on the CPU."""

    numbers: Tensor

    def __new__(cls, numbers: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=GPU,
        )
        made.numbers = numbers
        return made

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.numbers.tolist()


class Simulated(TorchDispatchMode):
    """Lets tensors be made on the GPU, and moved there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Do an operation on the numbers; what comes out is where it would be."""
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, OnGpu) for tensor in tensors)
    if there and operation not in _MOVES:
        check_apart(operation, args, tensors)
    if (device := kwargs.get("device")) is not None:
        there = torch.device(device).type == GPU.type
        kwargs = {**kwargs, "device": CPU}
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operation} draws on the GPU from a generator of the CPU")
    if operation is aten.copy_.default:
        there = isinstance(args[0], OnGpu)
    result = operation(*tree_map(_numbers, args), **tree_map(_numbers, dict(kwargs)))
    for place, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written = kwargs.get(argument.name)
            return args[place] if written is None else written
    return tree_map(_wrapped, result) if there else result


def check_apart(operation: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Refuse tensors of both devices, but for what torch allows: numbers, and places on the CPU."""
    allowed: list[Tensor] = []
    if operation in _INDEXES and isinstance(args[0], OnGpu):
        allowed = [place for place in args[1] if place is not None]
    for tensor in tensors:
        here = not isinstance(tensor, OnGpu) and tensor.dim() > 0
        if here and not any(tensor is place for place in allowed):
            raise RuntimeError(f"{operation} is given tensors of two devices")


def _numbers(leaf: Any) -> Any:
    return leaf.numbers if isinstance(leaf, OnGpu) else leaf


def _wrapped(leaf: Any) -> Any:
    return OnGpu(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, OnGpu) else leaf


_tensor, _bind, _on = torch.tensor, ParamSpec.bind, prepare.Simulation.on


def tensor(data: Any, *, device: Any = None, **more: Any) -> Tensor:
    """Make a tensor; torch's own function leaves modes aside."""
    return _tensor(data, **more).to(device or CPU)


def new_tensor(self: Tensor, data: Any, **more: Any) -> Tensor:
    """Likewise, where another tensor is."""
    return _tensor(data, **{"dtype": self.dtype, **more}).to(self.device)


def bind(self: ParamSpec, model: nn.Module, vector: Tensor) -> None:
    """Make a model's tensors views of a vector; `.data` of those on this GPU cannot be set."""
    if not isinstance(vector, OnGpu):
        _bind(self, model, vector)
        return
    for name, view in self.views(vector).items():
        parent, _, own = name.rpartition(".")
        module = model.get_submodule(parent)
        if own in module._parameters:
            module._parameters[own] = nn.Parameter(view)
        else:
            module._buffers[own] = view


def on(self: prepare.Simulation, device: torch.device) -> prepare.Simulation:
    """Bring a simulation to a device."""
    with Simulated():
        return _on(self, device)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Compute on a device."""
    with nullcontext() if device.type == "cpu" else Simulated():
        yield


def install() -> None:
    """Let torch and Roundel take the simulated GPU for one of CUDA."""
    runs: Any = sys.modules["roundel.simulations.simulate"]
    runs.device_of = lambda kind: CPU if kind == "cpu" else GPU
    runs.repeatable = repeatable
    engine: Any = sys.modules["roundel.simulations.engine"]
    engine.name_of = lambda kind: "" if kind == "cpu" else "simulated"
    changed: Any = prepare.Simulation
    changed.on = on
    changed = ParamSpec
    changed.bind = bind
    changed = torch
    changed.tensor = tensor
    changed.Tensor.new_tensor = new_tensor
    changed.cuda.is_available = lambda: True
    changed.cuda.mem_get_info = lambda _device: (1 << 40, 1 << 40)


def main() -> None:
    """Compare the two devices."""
    install()
    with tempfile.TemporaryDirectory() as folder:
        for number, settings in enumerate(sys.argv[1:]):
            runs = [
                simulate(
                    settings=[*settings.split(), f"engine.device={device}"],
                    out=Path(folder) / f"{number}-{device}",
                )
                for device in ("cpu", "cuda")
            ]
            same = runs[0].hashes == runs[1].hashes
            figures = [[line["accuracy"] for line in run.rounds] for run in runs]
            said = same and figures[0] == figures[1], runs[1].environment["engine"]["device"]
            sys.stdout.write(f"{said[0]} {said[1]}\n")


if __name__ == "__main__":
    main()
