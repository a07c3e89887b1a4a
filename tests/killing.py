"""Runs that end in the middle, as if somebody had killed them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from roundel.core.records import RoundReport


class Killed(Exception):
    """What ends a run in the middle."""


@contextmanager
def killed_in(last: int) -> Iterator[Callable[[RoundReport], None]]:
    """Yield a watcher of rounds that ends the run when it is shown a round; the run must end so.

    A run shows a round when its lines are written, and before its checkpoint is.

    Args:
        last: The round.
    """

    def die(report: RoundReport) -> None:
        if report.record.round == last:
            raise Killed

    with pytest.raises(Killed):
        yield die
