"""Server state and client states as one checkpoint, and back."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from roundel.core.clientstate import ClientState
from roundel.core.errors import ParameterError
from roundel.core.params import params_sha256
from roundel.core.rundir import RunDirectory, read_checkpoints
from roundel.server.aggregation import ServerState

_PARAMS = "params"
_INTEGERS = "integers"


def save_checkpoint(
    directory: RunDirectory,
    state: ServerState,
    clients: Mapping[int, ClientState],
    fingerprint: str,
) -> None:
    """Write everything that the next round depends on.

    Args:
        directory: Where to.
        state: The server's state after a committed round.
        clients: All committed client states.
        fingerprint: Of the model's layout; a checkpoint of another layout is not read.
    """
    tensors = {_PARAMS: state.params, _INTEGERS: state.integers}
    for link, values in state.transforms.items():
        tensors |= {f"server/{link}/{name}": value for name, value in values.items()}
    for client_id, values in clients.items():
        tensors |= {f"client/{client_id}/{name}": value for name, value in values.items()}
    metadata = {
        "round": str(state.round),
        "params_sha256": params_sha256(state.params, state.integers),
        "fingerprint": fingerprint,
    }
    directory.save_checkpoint(state.round, tensors, metadata)


def load_checkpoint(
    path: Path, fingerprint: str, before: int | None = None
) -> tuple[ServerState, dict[int, ClientState]] | None:
    """Read the newest checkpoint that is whole; None if there is none.

    Args:
        path: The run directory; nothing is written to it.
        fingerprint: Of the model's layout.
        before: Only checkpoints of rounds before this one count.

    Raises:
        ParameterError: A checkpoint belongs to a model of another layout.
    """
    for tensors, metadata in read_checkpoints(path):
        if metadata.get("fingerprint") != fingerprint:
            raise ParameterError(
                f"the checkpoints in {path} belong to a model of another layout; "
                "resume with the code that wrote them"
            )
        number = int(metadata["round"])
        if before is None or number < before:
            return _unpack(tensors, number)
    return None


def _unpack(
    tensors: Mapping[str, Tensor], number: int
) -> tuple[ServerState, dict[int, ClientState]]:
    transforms: dict[str, dict[str, Tensor]] = {}
    clients: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match key.split("/", 2):
            case ["server", link, name]:
                transforms.setdefault(link, {})[name] = value
            case ["client", client_id, name]:
                clients.setdefault(int(client_id), {})[name] = value
            case _:
                pass
    state = ServerState(
        round=number,
        params=tensors[_PARAMS],
        integers=tensors[_INTEGERS],
        transforms=transforms,
    )
    return state, dict(clients)
