"""Where a simulation computes: on the CPU, or on a GPU.

Bits depend on it, so ``engine.device`` is the CPU unless the experiment says something else; what
it came to stands in the run's ``environment.json``, and the run goes on there alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.learning import CPU

Kind = Literal["cpu", "cuda"]

_SHARE = 4
"""Examples are kept on a GPU if they take at most one over this of its free memory."""

_LOCAL_RANK = "LOCAL_RANK"
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def settled(asked: Literal["auto", "cpu", "cuda"]) -> Kind:
    """Return the kind of device that an experiment's ``engine.device`` means on this machine.

    Raises:
        ConfigError: It asks for a GPU, and there is none.
    """
    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise ConfigError(
            "engine.device = 'cuda' needs a GPU and a torch that is built for it, and torch finds "
            "none here; set engine.device to 'auto' or 'cpu'"
        )
    return "cpu"


def check_present(kind: str, run: Path) -> None:
    """Refuse to go on with a run on another kind of device than it began on.

    Args:
        kind: What its ``environment.json`` says.
        run: The run directory, for the message.

    Raises:
        RunDirectoryError: It began on a GPU, and there is none.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise RunDirectoryError(
            f"{run} was computed on a GPU, whose results the CPU does not give, and torch finds "
            "none here; go on where there is one, or start a new run with engine.device = 'cpu'"
        )


def check_can_fork(kind: str, workers: int) -> None:
    """Refuse several workers on a GPU, which forks of a process cannot share.

    Raises:
        ConfigError: They are asked for.
    """
    if kind == "cuda" and workers > 1:
        raise ConfigError(
            f"engine.workers = {workers} divides a run over cores, and this one is computed on a "
            "GPU; leave it out, or start one process for each GPU, by "
            f"`torchrun --nproc-per-node {workers} -m roundel.cli simulate ...`"
        )


def device_of(kind: str) -> torch.device:
    """Return this process's device: of several on one machine, each takes the next GPU in turn.

    Args:
        kind: As in ``environment.json``.

    Raises:
        ConfigError: It is a GPU, and there is none.
    """
    if kind == "cpu":
        return CPU
    settled("cuda")
    rank = int(os.environ.get(_LOCAL_RANK, "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())


def name_of(kind: str) -> str:
    """Return what GPU it is; nothing for the CPU."""
    return "" if kind == "cpu" else torch.cuda.get_device_name(device_of(kind))


def has_room(examples: Examples, device: torch.device) -> bool:
    """Tell whether examples may lie on a GPU for the whole run."""
    free, _ = torch.cuda.mem_get_info(device)
    return _SHARE * (examples.inputs.nbytes + examples.targets.nbytes) <= free


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU give the same bits each time where torch knows how, and say where it does not.

    Within this context it is also the GPU that is meant by ``cuda`` without a number.
    """
    if device.type == "cpu":
        yield
        return
    os.environ.setdefault(*_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with torch.cuda.device(device), cudnn:
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode=before, warn_only=only_warned)
