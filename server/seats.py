"""Which client each node is, where nodes bring their own examples."""

import json
from dataclasses import dataclass, replace
from typing import Any

from roundel.core.errors import ProtocolError, RunDirectoryError


@dataclass(frozen=True, kw_only=True)
class Seats:
    """Client numbers by the names of nodes: each name keeps the number that it got first.

    Attributes:
        clients: N, the population.
        names: The node of each client, from client 0 on, as far as they are taken.
    """

    clients: int
    names: tuple[str, ...] = ()

    def seated(self, name: str) -> tuple["Seats", int]:
        """Give a node its client: the one it had, or the next that is free.

        Args:
            name: The node's.

        Returns:
            The seats as they are now, and the client's number.

        Raises:
            ProtocolError: Every client has another node.
        """
        if name in self.names:
            return self, self.names.index(name)
        if len(self.names) >= self.clients:
            raise ProtocolError(
                f"node {name!r} brings examples of its own, and each of the {self.clients} clients "
                f"has its node already ({_some(self.names)}); join under the name of the node that "
                "it replaces, or serve with a larger partition.clients"
            )
        return replace(self, names=(*self.names, name)), len(self.names)

    def text(self) -> str:
        """Return the names as JSON."""
        return json.dumps(self.names)

    @classmethod
    def of(cls, text: str, clients: int) -> "Seats":
        """Read what `text` has written.

        Args:
            text: JSON.
            clients: N.

        Raises:
            RunDirectoryError: It is something else, or has more names than there are clients.
        """
        names = _parsed(text)
        plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not plain or len(set(names)) < len(names) or len(names) > clients:
            raise RunDirectoryError(
                f"the record of which node is which client is damaged: {text[:200]!r} does not "
                f"name up to {clients} nodes, each once; put the run's files back, or start a new "
                "run"
            )
        return cls(clients=clients, names=tuple(names))


def _parsed(text: str) -> Any:  # noqa: ANN401 - what JSON holds
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _some(names: tuple[str, ...], most: int = 10) -> str:
    """Return names to read, not more than a sentence bears."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
