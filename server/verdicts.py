"""What became of a node's latest answers, so that one which is sent again is not another one."""

from concurrent.futures import Future

Verdict = Future[str | None]
"""None for accepted, or the reason why not; an exception for an answer to be sent again."""

REMEMBERED = 8
"""Verdicts of a node that are kept, and one for each of its clients.

A node sends one answer after the other and repeats only the last: these are few, and a thousand
nodes have them.
"""


class Verdicts:
    """The verdicts on one node's answers, by what is the same if an answer is sent again.

    One that waits is an object with locks of its own, of a few thousand bytes; of one that is known
    nothing is kept but what it says. Used on the event loop alone.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, Verdict] = {}
        self._known: dict[bytes, str | None] = {}

    def find(self, key: bytes) -> Verdict | None:
        """Return the verdict on an answer that has come before; None if it has not."""
        if key in self._known:
            known = Verdict()
            known.set_result(self._known[key])
            return known
        return self._waiting.get(key)

    def add(self, key: bytes, verdict: Verdict, clients: int) -> None:
        """Remember an answer that has come.

        Args:
            key: The answer's.
            verdict: On it, given later.
            clients: How many clients the node hosts.
        """
        self._settle()
        self._waiting[key] = verdict
        while len(self._known) > REMEMBERED + clients:
            del self._known[next(iter(self._known))]

    def settled(self, key: bytes) -> None:
        """Take in that the verdict on an answer was given; one to be sent again is forgotten."""
        verdict = self._waiting.get(key)
        if verdict is not None and verdict.done():
            del self._waiting[key]
            if verdict.exception() is None:
                self._known[key] = verdict.result()

    def undecided(self) -> int:
        """Return how many answers wait for their verdicts."""
        self._settle()
        return len(self._waiting)

    def _settle(self) -> None:
        for key in list(self._waiting):
            self.settled(key)
