"""State that belongs to a client and outlives a round: control variates, personal layers.

A store is transactional. What a client computed is *staged* with its update, and becomes visible
only when the round that accepted the update commits. A client whose update was lost, late or
refused goes on from the state it had before.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

ClientState = Mapping[str, Tensor]
"""One client's tensors by name."""


class ClientStore:
    """Client states by client number, with one staged generation.

    Attributes:
        committed: The states that rounds have committed; clients without any are absent.
    """

    def __init__(self, committed: Mapping[int, ClientState] | None = None) -> None:
        self.committed: dict[int, ClientState] = dict(committed or {})
        self._staged: dict[int, ClientState] = {}

    def get(self, client_id: int) -> ClientState:
        """Return a client's committed state; empty for one that never took part."""
        return self.committed.get(client_id, {})

    def stage(self, client_id: int, state: ClientState) -> None:
        """Remember what a client's state becomes if its update is committed."""
        if state or client_id in self.committed:
            self._staged[client_id] = state

    def commit(self, accepted: Iterable[int]) -> None:
        """Make the staged states of the accepted clients visible and forget the others."""
        for client_id in accepted:
            if client_id in self._staged:
                self.committed[client_id] = self._staged[client_id]
        self._staged.clear()
