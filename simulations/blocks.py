"""A cohort in blocks: clients that are trained together, and blocks that are dealt out to ranks.

Blocks depend on the cohort and the width alone, never on how many ranks there are: results may
depend on who is trained together, and must not depend on where.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from roundel.core.messages import Ticket

Cost = Callable[[int], int]
"""A client's number to about how much work it is, in any unit."""


@dataclass
class Widths:
    """The most clients that are trained at once, round by round: fewer once memory was short.

    Attributes:
        first: How many it was to begin with.
        narrowed: Rounds since which it is fewer, and how many then.
    """

    first: int
    narrowed: dict[int, int] = field(default_factory=dict[int, int])

    def of(self, round: int) -> int:
        """Return the width of a round."""
        return min([self.first, *(w for since, w in self.narrowed.items() if since <= round)])

    def narrow(self, round: int) -> None:
        """Train half as many at once from this round on."""
        self.narrowed[round] = max(1, self.of(round) // 2)


def narrowed(lines: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return in which rounds of a run fewer clients were trained at once, and how many.

    Args:
        lines: Those of its ``metrics.jsonl``.
    """
    return {line["round"]: line["width"] for line in lines if "width" in line}


def blocks_of(tickets: Sequence[Ticket], width: int, cost: Cost) -> list[list[Ticket]]:
    """Divide a cohort into blocks of about equal length, the most work first.

    Clients with equally much work stand together, so that few wait for others. If one block is not
    enough there is an even number of them, which two ranks can share.

    Args:
        tickets: The cohort, in its order.
        width: The most clients that a block may have.
        cost: Orders the clients; equal ones stay in the order of the cohort.
    """
    if width == 1:
        return [[ticket] for ticket in tickets]
    ordered = sorted(tickets, key=lambda ticket: -cost(ticket.client_id))
    count = -(-len(ordered) // width)
    count = min(len(ordered), count + (count > 1 and count % 2))
    bounds = [len(ordered) * place // max(1, count) for place in range(count + 1)]
    return [ordered[a:b] for a, b in pairwise(bounds)]


class Durations:
    """How long clients train, as far as rounds have told.

    It says where blocks are trained and never who is in them, for results may not depend on it.
    """

    def __init__(self, cost: Cost) -> None:
        """Know nothing yet.

        Args:
            cost: What to expect of a client until it has trained.
        """
        self._cost = cost
        self._seconds: dict[int, float] = {}
        self._all_seconds = 0.0
        self._all_costs = 0.0

    def note(self, client_id: int, seconds: float) -> None:
        """Remember how long a client has trained."""
        self._seconds[client_id] = seconds
        self._all_seconds += seconds
        self._all_costs += self._cost(client_id)

    def expected(self, client_id: int) -> float:
        """Return how long it will train; its cost in place of seconds while nothing is known."""
        if client_id in self._seconds:
            return self._seconds[client_id]
        known = self._all_seconds > 0.0 and self._all_costs > 0.0
        return self._cost(client_id) * (self._all_seconds / self._all_costs if known else 1.0)


def deal(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Deal pieces of work out, the longest first, each to the rank that has the least so far.

    Args:
        costs: Of each piece.
        ranks: How many there are.

    Returns:
        The places of each rank's pieces, in the order in which it does them.

    Source:
        R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969: at most 4/3 times as long
        as the best way.
    """
    loads = [(0.0, rank) for rank in range(ranks)]
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        load, rank = heapq.heappop(loads)
        hands[rank].append(place)
        heapq.heappush(loads, (load + costs[place], rank))
    return hands
