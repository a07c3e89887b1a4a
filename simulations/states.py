"""Client states on several ranks: rank 0 holds them, the others borrow."""

from collections.abc import Callable, Collection, Mapping

from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.ranks import Ranks
from roundel.simulations.exchange import exchange_states


class SharedStates:
    """The client states of a run, seen from one of its ranks.

    A client may be trained by one rank in this round and by another in the next. Rank 0 keeps all
    states, as it would alone: what is committed, put into files and into checkpoints is there. It
    lends a client's state to the rank that is about to work on that client, and takes back what
    became of it. On a single rank nothing is lent.
    """

    def __init__(
        self, ranks: Ranks, own: ClientStore, empty: Callable[[], ClientStore], *, any_yet: bool
    ) -> None:
        """Begin.

        Args:
            ranks: All that compute the run.
            own: The run's states at rank 0, none elsewhere.
            empty: Makes room for borrowed ones.
            any_yet: Whether any client of the run has a state by now.
        """
        self._ranks = ranks
        self._own = own
        self._empty = empty
        self._any = any_yet  # the same on all ranks
        self._kept = False

    @property
    def committed(self) -> Mapping[int, ClientState]:
        """The states that rounds have committed; on rank 0 only."""
        return self._own.committed

    def get(self, client_id: int) -> ClientState:
        """Return the committed state of a client that is worked on here."""
        return self._own.get(client_id)

    def stage(self, client_id: int, state: ClientState) -> None:
        """Remember what the state of a client that was trained here becomes if that counts."""
        self._kept = self._kept or bool(state)
        self._own.stage(client_id, state)

    def commit(self, accepted: Collection[int]) -> None:
        """Make the staged states of the accepted clients final."""
        self._own.commit(accepted)

    def lend(self, places: Mapping[int, int]) -> None:
        """Send states from rank 0 to where they are needed.

        Args:
            places: Client to the rank that is about to work on it; the same on all ranks.
        """
        if self._ranks.size == 1 or not self._any:
            return
        outgoing: list[list[int]] = [[] for _ in range(self._ranks.size)]
        if self._ranks.rank:
            self._own = self._empty()
        else:
            held = self._own.committed
            for client_id, rank in places.items():
                if rank and client_id in held:
                    outgoing[rank].append(client_id)
        borrowed: list[int] = []

        def put(client_id: int, state: ClientState) -> None:
            self._own.stage(client_id, state)
            borrowed.append(client_id)

        exchange_states(self._ranks, outgoing, self._own.get, put)
        if self._ranks.rank:
            self._own.commit(borrowed)

    @property
    def keeps(self) -> bool:
        """Whether a client that was trained here has had something to keep."""
        return self._kept

    def give_back(self, accepted: Collection[int], *, keeps: bool) -> None:
        """Send what was staged elsewhere to rank 0, where it is staged then.

        Args:
            accepted: Those clients trained here whose updates count.
            keeps: Whether a client of any rank has had something to keep.
        """
        ranks = self._ranks
        self._any = self._any or keeps
        if ranks.size == 1 or not self._any:
            return
        outgoing: list[list[int]] = [[] for _ in range(ranks.size)]
        if ranks.rank:
            self._own.commit(accepted)
            held = self._own.committed
            outgoing[0] = [client_id for client_id in accepted if client_id in held]
        exchange_states(ranks, outgoing, self._own.get, self._own.stage)
        if ranks.rank:
            self._own = self._empty()
