"""Letting a crowd through a few at a time, so that others need not wait behind it."""

import asyncio
from collections import deque
from collections.abc import Callable

LONGEST_S = 0.05
"""A turn is over by then in any case: a crowd must get through, however slow some of it are."""


class Pacer:
    """Gives turns on an event loop: a few at a time, the next one whenever one of them is over.

    A round begins for all nodes at once. If all of them were answered at once, and then served all
    that they ask for next, a heartbeat would wait behind thousands of calls, in the loop or before
    or behind it. An answer that has left has waited behind everything that was there before: so
    the more there is to do, the slower the next ones are let through.
    """

    def __init__(self, together: int, longest_s: float = LONGEST_S) -> None:
        """Make one.

        Args:
            together: How many turns there are at a time.
            longest_s: How long each of them lasts at most.
        """
        self._free = together
        self._longest_s = longest_s
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self, tell_when_over: Callable[[Callable[[], None]], None]) -> None:
        """Wait for a turn; they are given in the order in which they are asked for.

        Args:
            tell_when_over: Takes a function that is to be called once the turn is over.
        """
        loop = asyncio.get_running_loop()
        if self._free and not self._waiting:
            self._free -= 1
        else:
            turn = loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it had come just then
                    self._next()
                raise
        is_over = False

        def over() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._next()

        tell_when_over(over)
        loop.call_later(self._longest_s, over)

    def _next(self) -> None:
        self._free += 1
        while self._waiting and self._free:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._free -= 1
