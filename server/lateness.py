"""How late this side is, so that nobody counts as silent who has called and was not heard yet.

A node's silence is measured by a clock that stands still while the coordinator is behind: while its
event loop does not turn, or while calls wait long before they are accepted.

How long a call has waited only its caller can say, who may lie to keep silent nodes in the run. So
several nodes must agree on it and none may object, and their word stops the clock at most as long
as it has run since.
"""

PULSE_S = 0.25
"""How often somebody must say that the event loop turns."""

LATE_S = 1.0
"""What is later than that, at a pulse or in accepting a call, is late."""

AGREEING = 3
"""How many nodes must have waited for long between two pulses; with fewer there is no crowd."""

TRUST_S = 60.0
"""How long the clock stands still in a row at the most because nodes say that they have waited."""


class Lateness:
    """Adds up how long this side was behind; logic only, the caller says what time it is.

    `turned` and `waited` are for the event loop, `total_s` for any thread.
    """

    def __init__(self) -> None:
        self._state: tuple[float, float | None] = (0.0, None)  # up to when: read by other threads
        self._waits_s: dict[str, float] = {}
        self._trust_s = TRUST_S

    def turned(self, now_s: float) -> None:
        """Take in that the event loop turns, to be called every `PULSE_S`."""
        before, last_s = self._state
        gap_s = 0.0 if last_s is None else now_s - last_s
        stood_s = _late_s(gap_s)
        said_s = min(gap_s - stood_s, self._trust_s) if self._are_late() else 0.0
        self._trust_s = min(TRUST_S, self._trust_s + gap_s - stood_s - 2 * said_s)
        self._waits_s = {}
        self._state = (before + stood_s + said_s, now_s)

    def waited(self, node: str, wait_s: float) -> None:
        """Take in how long a node's call waited before it was accepted, as far as that is known.

        Args:
            node: Its name; however often it calls between two pulses, it counts once.
            wait_s: What it says, in seconds.
        """
        self._waits_s[node] = min(wait_s, self._waits_s.get(node, wait_s))

    def total_s(self, now_s: float) -> float:
        """Return how long this side was behind until now, all together."""
        total_s, last_s = self._state
        return total_s if last_s is None else total_s + _late_s(now_s - last_s)

    def _are_late(self) -> bool:
        """Tell whether several nodes have called since the last pulse, and all waited for long."""
        waits_s = self._waits_s.values()
        return len(waits_s) >= AGREEING and min(waits_s) > LATE_S


def _late_s(gap_s: float) -> float:
    return gap_s - PULSE_S if gap_s > LATE_S else 0.0
