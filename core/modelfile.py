"""A model's tensors in a file: what a run leaves behind, and what one may start from."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roundel.core.errors import ParameterError
from roundel.core.runfiles import MODEL


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
