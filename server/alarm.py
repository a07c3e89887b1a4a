"""Waking those who wait on an event loop, from other threads, many at once."""

import asyncio
from collections import deque


class Alarm:
    """Sets events of an event loop from any thread.

    Asked for one by one, each would cost the loop a turn and the thread a system call, in which it
    lets go of the interpreter: a thousand nodes that get work would take both a second.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[asyncio.Event] = deque()
        self._asked = False

    def ring(self, event: asyncio.Event) -> None:
        """Have an event set soon; may be called from any thread."""
        self._due.append(event)
        if not self._asked:
            self._asked = True
            self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        self._asked = False  # before anything is taken: what comes from now on asks again
        while self._due:
            self._due.popleft().set()
