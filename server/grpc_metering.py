"""How much of the coordinator each peer uses: too fast is slowed down, too much is refused."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from roundel.core.wire.frames import Handler
from roundel.server.budgets import Budget, Limits
from roundel.server.clocks import Clocks
from roundel.server.grpc_reading import Context, Interceptor, Receive, Refused, answer

_PEERS = 20_000
"""How many peers are remembered; those that were here longest ago are forgotten."""


class Meter:
    """What each peer has used, a few numbers for each."""

    def __init__(self, limits: Limits, clocks: Clocks, peers: int = _PEERS) -> None:
        """Begin to count.

        Args:
            limits: What each peer may use.
            clocks: The time.
            peers: How many are remembered besides those that have calls open.
        """
        self._limits = limits
        self._clocks = clocks
        self._peers = peers
        self._budgets: OrderedDict[Hashable, Budget] = OrderedDict()

    @asynccontextmanager
    async def opened(self, peer: Hashable, who: str) -> AsyncIterator[Budget]:
        """Count a call as open in the block, which begins when the peer may make a further one.

        Args:
            peer: Whose call it is.
            who: The same, for people.

        Raises:
            Refused: It has too many calls open.
        """
        budget = self._budget(peer)
        if budget.open >= self._limits.open:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{who} has {budget.open} calls open, which is all that it may; wait for some to "
                "end",
            )
        budget.open += 1
        try:
            await _pause(budget.calls.wait_s(1.0, self._clocks.seconds()))
            yield budget
        finally:
            budget.open -= 1

    def enter(self, budget: Budget, who: str) -> None:
        """Count a call that leaves traces, such as lines of the audit trail.

        Raises:
            Refused: The peer made too many of them lately.
        """
        now_s = self._clocks.seconds()
        if budget.entries.is_empty(now_s):
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{who} has joined or renewed its certificate too often; wait a minute",
            )
        budget.entries.wait_s(1.0, now_s)

    def limited(self, receive: Receive, budget: Budget) -> Receive:
        """Return what takes in what a peer sends, no faster than it may send it."""

        async def slowly() -> bytes | None:
            data = await receive()
            if data is not None:
                await _pause(budget.payload.wait_s(len(data), self._clocks.seconds()))
            return data

        return slowly

    def _budget(self, peer: Hashable) -> Budget:
        if peer not in self._budgets:
            self._budgets[peer] = Budget(self._limits, self._clocks.seconds())
        self._budgets.move_to_end(peer)
        oldest = next(iter(self._budgets))
        if len(self._budgets) > self._peers and not self._budgets[oldest].open:
            del self._budgets[oldest]
        return self._budgets[peer]


class Metering(Interceptor):
    """An interceptor that lets everybody in, each connection with what one peer may use.

    Without certificates nobody's name is sure, and all may come from one address.
    """

    def __init__(self, limits: Limits, clocks: Clocks) -> None:
        self._meter = Meter(limits, clocks)

    async def serve(self, handler: Handler, method: str, receive: Receive, context: Context) -> Any:  # noqa: ANN401 - any reply
        """Answer a call, and count."""
        peer = context.peer()
        async with self._meter.opened(peer, f"whoever calls from {peer}") as budget:
            return await answer(handler, self._meter.limited(receive, budget), context)


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)
