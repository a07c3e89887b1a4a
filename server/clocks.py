"""Where the time comes from, for code that is told it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Two ways to ask for the time.

    Attributes:
        utc: The time of day, for certificates.
        seconds: Goes on evenly from anywhere, for budgets.
    """

    utc: Callable[[], datetime]
    seconds: Callable[[], float]


SYSTEM = Clocks(utc=lambda: datetime.now(UTC), seconds=time.monotonic)
