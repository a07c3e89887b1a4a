"""How much of the coordinator each peer may use: buckets of tokens, filled as time goes by.

Whoever takes more than its rate is slowed down, which a node that works never notices; whoever has
too much open at once is refused. Time is an argument.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast something may be used.

    Attributes:
        per_s: In the long run, units a second.
        burst: At once, after a while without use.
    """

    per_s: float
    burst: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What each peer may use.

    Attributes:
        calls: How many calls it may begin.
        payload: How many bytes it may send.
        open: How many calls may be open at a time.
        entries: How many calls it may make that leave traces: lines of the audit trail.
    """

    calls: Rate
    payload: Rate
    open: int
    entries: Rate = Rate(per_s=0.1, burst=60.0)


NODE = Limits(
    calls=Rate(per_s=2_000.0, burst=4_000.0),
    payload=Rate(per_s=float(1 << 30), burst=float(1 << 30)),
    open=32,
)
"""Of a node: several times what the fastest one needs.

It has a poll, a beat and an upload open, and for a moment those of a connection that has broken.
"""


CONNECTION = replace(NODE, open=64)
"""Of a connection without certificates, behind which there may be several nodes."""

REFUSED = Limits(
    calls=Rate(per_s=10.0, burst=100.0),
    payload=Rate(per_s=1.0, burst=1.0),
    open=4,
)
"""Of a node whose calls are all refused, such as one whose certificate was taken back."""


class Bucket:
    """One peer's use of one thing."""

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate = rate
        self._level = rate.burst
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Take so much, and return how long to wait before using it: 0.0 within the rate."""
        self._fill(now_s)
        self._level -= amount
        return max(0.0, -self._level / self._rate.per_s)

    def is_empty(self, now_s: float) -> bool:
        """Tell whether not even one unit is left."""
        self._fill(now_s)
        return self._level < 1.0

    def _fill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self._at_s) * self._rate.per_s
        self._level = min(self._rate.burst, self._level + gained)
        self._at_s = max(self._at_s, now_s)


class Budget:
    """What one peer has used.

    Attributes:
        calls: The calls that it began.
        payload: The bytes that it sent.
        entries: The calls that left traces.
        open: How many of its calls are open.
    """

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.calls = Bucket(limits.calls, now_s)
        self.payload = Bucket(limits.payload, now_s)
        self.entries = Bucket(limits.entries, now_s)
        self.open = 0


class Refusals:
    """Who was refused how often: whoever guesses is soon not listened to."""

    def __init__(self, *, each: Rate, together: Rate, places: int, now_s: float) -> None:
        """Begin to count.

        Args:
            each: How often one place may be refused.
            together: How often all places together may.
            places: How many to remember; the one that was refused longest ago is forgotten.
            now_s: Now.
        """
        self._each = each
        self._together = Bucket(together, now_s)
        self._places = places
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def are_too_many(self, place: str, now_s: float) -> bool:
        """Tell whether a place, or all of them together, were refused too often lately."""
        bucket = self._buckets.get(place)
        return self._together.is_empty(now_s) or (bucket is not None and bucket.is_empty(now_s))

    def add(self, place: str, now_s: float) -> None:
        """Count a refusal."""
        bucket = self._buckets.setdefault(place, Bucket(self._each, now_s))
        self._buckets.move_to_end(place)
        while len(self._buckets) > self._places:
            self._buckets.popitem(last=False)
        for counted in (bucket, self._together):
            counted.wait_s(1.0, now_s)
