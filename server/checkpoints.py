"""Server state and client states as one checkpoint, and back.

While all client states fit into memory, a checkpoint holds them. Once they do not, each lies in a
file of its own, and a checkpoint says which: it is small, and what has not changed since the last
one is not written again.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from roundel.core.clientstate import ClientState, ClientStore, CommittedStates
from roundel.core.errors import ParameterError
from roundel.core.rundir import RunDirectory, checkpoint_files, read_checkpoints
from roundel.core.runfiles import STATES
from roundel.core.statefiles import FiledStates, StateFiles, drop_unused, name_of, number_of
from roundel.server.aggregation import ServerState

_PARAMS = "params"
_INTEGERS = "integers"
_ELSEWHERE = "states"  # in the metadata, if client states are not in the checkpoint
_FILED = "filed"  # rows of client number and file number, int64


def open_store(directory: RunDirectory, clients: Mapping[int, ClientState]) -> ClientStore:
    """Return a run's client states; what does not fit into memory goes to its directory.

    Args:
        directory: The run.
        clients: The states to begin with, as `load_checkpoint` gives them.
    """
    return ClientStore(
        clients,
        limit_bytes=directory.experiment.engine.state_memory_bytes,
        files=StateFiles(directory.path / STATES),
    )


def save_checkpoint(
    directory: RunDirectory,
    state: ServerState,
    clients: Mapping[int, ClientState] | None,
    fingerprint: str,
) -> None:
    """Write everything that the next round depends on.

    Args:
        directory: Where to.
        state: The server's state after a committed round.
        clients: All committed client states; a store's own view of them, if files are to be named
            in their place; None if they are with their nodes.
        fingerprint: Of the model's layout; a checkpoint of another layout is not read.
    """
    tensors = {_PARAMS: state.params, _INTEGERS: state.integers}
    for link, values in state.transforms.items():
        tensors |= {f"server/{link}/{name}": value for name, value in values.items()}
    paths = clients.filed(directory.path / STATES) if isinstance(clients, CommittedStates) else None
    if paths is None:
        for client_id, values in (clients or {}).items():
            tensors |= {f"client/{client_id}/{name}": value for name, value in values.items()}
    else:
        rows = [(client_id, number_of(path)) for client_id, path in sorted(paths.items())]
        tensors[_FILED] = torch.tensor(rows, dtype=torch.int64)
    metadata = {"round": str(state.round), "fingerprint": fingerprint}
    if clients is None:
        metadata[_ELSEWHERE] = "nodes"
    directory.save_checkpoint(state.round, tensors, metadata)
    drop_unused(directory.path / STATES, _files_in_use(directory.path))


def oldest_checkpoint(path: Path) -> int:
    """Return the round of the oldest checkpoint of a run, which must have one."""
    return int(checkpoint_files(path)[0].stem.rpartition("-")[2])


def load_checkpoint(
    path: Path, fingerprint: str, before: int | None = None, *, states_elsewhere: bool = False
) -> tuple[ServerState, Mapping[int, ClientState]] | None:
    """Read the newest checkpoint that is whole; None if there is none.

    Client states that lie in files are left there until they are asked for.

    Args:
        path: The run directory; nothing is written to it.
        fingerprint: Of the model's layout.
        before: Only checkpoints of rounds before this one count.
        states_elsewhere: Whether one will do whose client states are with their nodes.

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
        if _ELSEWHERE in metadata and not states_elsewhere:
            continue
        filed = _filed(tensors, path / STATES)
        if filed is not None and any(not file.is_file() for file in filed.paths.values()):
            continue
        if before is None or number < before:
            state, clients = _unpack(tensors, number)
            return state, clients if filed is None else filed
    return None


def _filed(tensors: Mapping[str, Tensor], directory: Path) -> FiledStates | None:
    """Return the client states that a checkpoint names, if it names any."""
    if _FILED not in tensors:
        return None
    rows = tensors[_FILED].tolist()
    return FiledStates({client: directory / name_of(client, number) for client, number in rows})


def _files_in_use(path: Path) -> set[str]:
    """Return the files of client states that the checkpoints of a run name."""
    names: set[str] = set()
    for file in checkpoint_files(path):
        try:
            with safe_open(file, framework="pt") as tensors:
                rows = tensors.get_tensor(_FILED).tolist() if _FILED in tensors.keys() else []  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError):
            continue  # what is damaged is not gone back to
        names |= {name_of(client, number) for client, number in rows}
    return names


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
