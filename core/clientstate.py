"""State that belongs to a client and outlives a round: control variates, personal layers.

A store is transactional. What a client computed is *staged* with its update, and becomes visible
only when the round that accepted the update commits. A client whose update was lost, late or
refused goes on from the state it had before.

A store holds so many bytes in memory and no more. Of what is beyond, the states that were not
needed for the longest time lie in files; see `roundel.core.statefiles`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from roundel.core.statefiles import FiledStates, StateFiles, read_state

ClientState = Mapping[str, Tensor]
"""One client's tensors by name."""

MEMORY_BYTES = 512_000_000
"""How much a store holds in memory unless it is told otherwise."""


@dataclass(eq=False)
class _Slot:
    """One state: in memory, in a file, or both.

    Attributes:
        state: None if it is in the file alone.
        path: None if it is in memory alone.
        nbytes: What it takes in memory.
    """

    state: ClientState | None = None
    path: Path | None = None
    nbytes: int = 0


class ClientStore:
    """Client states by client number, with one staged generation."""

    def __init__(
        self,
        committed: Mapping[int, ClientState] | None = None,
        *,
        limit_bytes: int = MEMORY_BYTES,
        files: StateFiles | None = None,
    ) -> None:
        """Make a store.

        Args:
            committed: States to begin with; those in files are left there.
            limit_bytes: The most that it holds in memory.
            files: Where to put what is beyond; by default a temporary directory.
        """
        self._limit = limit_bytes
        self._files = files or StateFiles()
        self._committed: dict[int, _Slot] = {}
        self._staged: dict[int, _Slot] = {}
        self._owners: dict[_Slot, int] = {}  # those in memory, the longest unused first
        self._held = 0
        if isinstance(committed, FiledStates):
            self._committed = {client: _Slot(path=path) for client, path in committed.paths.items()}
        else:
            for client_id, state in (committed or {}).items():
                self._committed[client_id] = self._hold(_Slot(), client_id, state)

    @property
    def held_bytes(self) -> int:
        """How many bytes of states are in memory now."""
        return self._held

    @property
    def committed(self) -> Mapping[int, ClientState]:
        """The states that rounds have committed; clients without any are absent."""
        return CommittedStates(self._committed, self._filed)

    def get(self, client_id: int) -> ClientState:
        """Return a client's committed state; empty for one that never took part."""
        slot = self._committed.get(client_id)
        if slot is None:
            return {}
        state = _read(slot)
        self._hold(slot, client_id, state)
        return state

    def stage(self, client_id: int, state: ClientState) -> None:
        """Remember what a client's state becomes if its update is committed."""
        if state or client_id in self._committed:
            self._forget(self._staged.pop(client_id, None))
            self._staged[client_id] = self._hold(_Slot(), client_id, state)

    def commit(self, accepted: Iterable[int]) -> None:
        """Make the staged states of the accepted clients visible and forget the others."""
        for client_id in accepted:
            if client_id in self._staged:
                self._forget(self._committed.get(client_id))
                self._committed[client_id] = self._staged.pop(client_id)
        for slot in self._staged.values():
            self._forget(slot)
        self._staged.clear()

    def _filed(self, directory: Path) -> Mapping[int, Path] | None:
        slots = self._committed
        if self._files.directory != directory or not any(s.path for s in slots.values()):
            return None
        paths = {client_id: self._file(slot, client_id) for client_id, slot in slots.items()}
        self._files.keep()
        return paths

    def _hold(self, slot: _Slot, client_id: int, state: ClientState) -> _Slot:
        """Keep a state in memory as the one used last, and make room for it."""
        if slot.state is None:
            slot.state, slot.nbytes = state, _nbytes(state)
            self._held += slot.nbytes
        self._owners.pop(slot, None)
        self._owners[slot] = client_id
        while self._held > self._limit:
            oldest, owner = next(iter(self._owners.items()))
            self._file(oldest, owner)
            self._release(oldest)
        return slot

    def _file(self, slot: _Slot, client_id: int) -> Path:
        if slot.path is None:
            slot.path = self._files.write(client_id, _read(slot))
        return slot.path

    def _release(self, slot: _Slot) -> None:
        if slot.state is not None:
            del self._owners[slot]
            self._held -= slot.nbytes
            slot.state = None

    def _forget(self, slot: _Slot | None) -> None:
        if slot is not None:
            self._release(slot)
            if slot.path is not None:
                self._files.discard(slot.path)


class CommittedStates(Mapping[int, ClientState]):
    """The committed states of a store as they are now; reading them moves none into memory."""

    def __init__(
        self,
        slots: Mapping[int, _Slot],
        filed: Callable[[Path], Mapping[int, Path] | None],
    ) -> None:
        self._slots = slots
        self._filed = filed

    def filed(self, directory: Path) -> Mapping[int, Path] | None:
        """Make all of them durable as files, if some are in files already.

        Args:
            directory: Where somebody else will look for them.

        Returns:
            Client to file; None if all are in memory, or the files are not in this directory.
        """
        return self._filed(directory)

    def __getitem__(self, client_id: int) -> ClientState:
        """Return a client's state."""
        return _read(self._slots[client_id])

    def __iter__(self) -> Iterator[int]:
        """Yield the clients."""
        return iter(self._slots)

    def __contains__(self, client_id: object) -> bool:
        """Tell whether a client has a state, without reading it."""
        return client_id in self._slots

    def __len__(self) -> int:
        """Return how many clients have a state."""
        return len(self._slots)


def _read(slot: _Slot) -> ClientState:
    if slot.state is not None:
        return slot.state
    assert slot.path is not None  # noqa: S101 - a state is always somewhere
    return read_state(slot.path)


def _nbytes(state: ClientState) -> int:
    """Return the memory that a state keeps: of a view it is all of what is viewed."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in state.values()}
    return sum(storage.nbytes() for storage in storages.values())
