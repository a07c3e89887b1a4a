"""Letting a crowd through a few at a time, so that others need not wait behind it."""

import asyncio
from collections import deque

LONG_TURN_S = 0.003
"""An event loop that takes longer for one turn has enough to do; whoever can wait, waits."""

_LONGEST_S = 0.01
"""So long at most: a crowd of a thousand must be through in seconds, however busy the loop is."""


class Pacer:
    """Gives turns on an event loop: a few, then everything else that is ready, then the next few.

    A round begins for all nodes at once. If all of them were answered at once, and then served all
    that they ask for next, a heartbeat would wait behind thousands of calls. So the next few are
    let through only when the loop has little to do.
    """

    def __init__(self, together: int, long_s: float = LONG_TURN_S) -> None:
        """Make one.

        Args:
            together: How many turns are given before everything else that is ready.
            long_s: How long a turn of the loop takes if it has much to do.
        """
        self._together = together
        self._long_s = long_s
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
            await self._leisure()
        self._giving = None

    async def _leisure(self) -> None:
        """Wait until the loop has taken a short turn, but not for ever."""
        loop = asyncio.get_running_loop()
        began_s = now_s = loop.time()
        while True:
            before_s = now_s
            await asyncio.sleep(0)
            now_s = loop.time()
            if now_s - before_s < self._long_s or now_s - began_s > _LONGEST_S:
                return
