"""A model's tensors in a file: what a run leaves behind, and what one may start from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roundel.core.errors import ParameterError
from roundel.core.runfiles import MODEL

_NAMED = 3
"""So many tensors are named where more do not fit."""


def read_model(path: Path) -> dict[str, Tensor]:
    """Read a model's state dict.

    Args:
        path: A safetensors file, or the directory of a finished run.

    Raises:
        ParameterError: There is none, or it cannot be read.
    """
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        reason = "the run has not finished" if path.is_dir() else "check the path"
        raise ParameterError(f"there is no model {file}; {reason}")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ParameterError(
            f"{file} cannot be read ({error}); it is not a safetensors file, or it is damaged"
        ) from error
    return tensors


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say in what given tensors are not those of a model; empty if names and shapes are the same.

    Args:
        own: The model's tensors by name.
        given: Those that it was to get.

    >>> import torch
    >>> misfit({"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(2, 4), "scale": torch.ones(1)})
    "it has 'scale', which the model has not; 'weight' is 2 x 4 where the model has 2 x 3"
    """
    lacking = [repr(name) for name in own if name not in given]
    beside = [repr(name) for name in given if name not in own]
    other = [
        f"{name!r} is {_size(given[name])} where the model has {_size(tensor)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    reasons = [
        f"it lacks {_few(lacking)}" if lacking else "",
        f"it has {_few(beside)}, which the model has not" if beside else "",
        _few(other),
    ]
    return "; ".join(filter(None, reasons))


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _few(words: Sequence[str]) -> str:
    """List the first three, and say how many more there are."""
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more} more" if more > 0 else "")
