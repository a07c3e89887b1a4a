"""Which clients of an app have never kept anything, so that any node may host them.

``context.state`` lies on the nodes, and each reply says whether there is any. A client whose
replies have all said that there is none loses nothing with the disk of its node.
"""

from collections.abc import Iterable

from roundel.server.journal import Journal

_FACT = "client {} keeps"
_NOTHING, _SOMETHING = "nothing", "something"


class Keepers:
    """What is known of each client, durably.

    Args:
        journal: Of the run.
        asked: The clients that earlier processes have asked for anything.
    """

    def __init__(self, journal: Journal, asked: Iterable[int]) -> None:
        self._journal = journal
        facts = {client: journal.fact(_FACT.format(client)) for client in asked}
        self._known = {client: fact for client, fact in facts.items() if fact is not None}

    def may_keep(self, client: int) -> bool:
        """Tell whether a client may have kept something; may be called from any thread."""
        return self._known.get(client) != _NOTHING

    def note(self, client: int, *, bare: bool) -> None:
        """Take note of what a reply says that is about to be accepted, and durable before it is.

        Args:
            client: Whose it is.
            bare: Whether the client keeps nothing.
        """
        known = self._known.get(client)
        journal = self._journal
        first = not (journal.last_round_of(client) or journal.accepted_since(client))
        said = _NOTHING if bare and (first or known == _NOTHING) else _SOMETHING
        if said != known:
            journal.set_fact(_FACT.format(client), said)  # one thread writes all, in this order
            self._known[client] = said
