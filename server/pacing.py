"""Letting a crowd through a few at a time, so that others need not wait behind it."""

import asyncio
from collections import deque


class Pacer:
    """Gives turns on an event loop: a few, then everything else that is ready, then the next few.

    A round begins for all nodes at once. If all of them were answered at once, and then served all
    that they ask for next, a heartbeat would wait behind thousands of calls.
    """

    def __init__(self, together: int) -> None:
        """Make one.

        Args:
            together: How many turns are given before everything else that is ready.
        """
        self._together = together
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._giving: asyncio.Task[None] | None = None

    async def turn(self) -> None:
        """Wait for a turn; they are given in the order in which they are asked for."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._giving is None:
            self._giving = asyncio.create_task(self._give())
        await turn

    async def _give(self) -> None:
        while self._waiting:
            for _ in range(min(self._together, len(self._waiting))):
                turn = self._waiting.popleft()
                if not turn.cancelled():
                    turn.set_result(None)
            await asyncio.sleep(0)
        self._giving = None
