"""How late this side is, so that nobody counts as silent who has called and was not heard yet.

A node's silence is measured by a clock that stands still while the coordinator is behind: while its
event loop does not turn, or while calls wait long before they are accepted.
"""

PULSE_S = 0.25
"""How often somebody must say that the event loop turns."""

LATE_S = 1.0
"""What is later than that, at a pulse or in accepting a call, is late."""


class Lateness:
    """Adds up how long this side was behind; logic only, the caller says what time it is.

    `turned` and `waited` are for the event loop, `total_s` for any thread.
    """

    def __init__(self) -> None:
        self._state: tuple[float, float | None] = (0.0, None)  # up to when: read by other threads
        self._least_s: float | None = None

    def turned(self, now_s: float) -> None:
        """Take in that the event loop turns, to be called every `PULSE_S`."""
        before, last_s = self._state
        gap_s = 0.0 if last_s is None else now_s - last_s
        behind = self._least_s is not None and self._least_s > LATE_S
        late_s = gap_s if behind else _late_s(gap_s)
        self._least_s = None
        self._state = (before + late_s, now_s)

    def waited(self, wait_s: float) -> None:
        """Take in how long a call waited before it was accepted, as far as that is known.

        What one caller says of itself counts for little: this side is behind only if all of those
        that were accepted since the last pulse have waited for long.
        """
        self._least_s = wait_s if self._least_s is None else min(self._least_s, wait_s)

    def total_s(self, now_s: float) -> float:
        """Return how long this side was behind until now, all together."""
        total_s, last_s = self._state
        return total_s if last_s is None else total_s + _late_s(now_s - last_s)


def _late_s(gap_s: float) -> float:
    return gap_s - PULSE_S if gap_s > LATE_S else 0.0
