"""How long runs will take that have begun, from the rounds that they have done."""

from collections.abc import Hashable, Sequence
from statistics import mean

from roundel.simulations.cells import Event, RoundDone

ENOUGH = 3
"""So many rounds must be measured: the first one of a run finds cold caches, and does not count."""


class Pace:
    """Hears of runs as they go on, and says how much is left.

    Args:
        rounds: How many each run has to do; 0 if it is finished.
        kinds: Runs of one kind take as long as each other.
        workers: How many are computed at once.

    >>> pace = Pace([10, 10], ["slow", "slow"], workers=2)
    >>> for number in (1, 2, 3, 4):
    ...     pace.hear(RoundDone(job=0, round=number, seconds=2.0, metrics={}))
    >>> pace.left_s
    20.0
    """

    def __init__(self, rounds: Sequence[int], kinds: Sequence[Hashable], *, workers: int) -> None:
        self._left = list(rounds)
        self._last = list(rounds)
        self._kinds = kinds
        self._workers = workers
        self._begun: set[int] = set()
        self._seconds: dict[Hashable, list[float]] = {}

    def hear(self, event: Event) -> None:
        """Take note of what a run has done."""
        if not isinstance(event, RoundDone):
            self._left[event.job] = 0
            return
        self._left[event.job] = max(0, self._last[event.job] - event.round)
        if event.job in self._begun and event.seconds is not None:
            self._seconds.setdefault(self._kinds[event.job], []).append(event.seconds)
        self._begun.add(event.job)

    @property
    def measured(self) -> int:
        """How many rounds have been measured."""
        return sum(map(len, self._seconds.values()))

    @property
    def round_s(self) -> float | None:
        """How long a round takes, over all kinds alike; None before enough were measured."""
        if self.measured < ENOUGH:
            return None
        return mean(mean(seconds) for seconds in self._seconds.values())

    @property
    def left_s(self) -> float | None:
        """In how many seconds all runs will have ended; None before enough rounds were measured.

        Kinds that have not begun are taken to be like the others.
        """
        usual = self.round_s
        if usual is None:
            return None
        rates = {kind: mean(seconds) for kind, seconds in self._seconds.items()}
        each = [
            left * rates.get(kind, usual)
            for left, kind in zip(self._left, self._kinds, strict=True)
        ]
        return max(sum(each) / self._workers, max(each, default=0.0))
