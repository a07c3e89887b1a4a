"""Ranks for tests: forks of the test's own process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roundel.core.ranks import Ranks
from roundel.simulations.forks import forked


def on_ranks(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Let so many ranks do the same; return what each got, which JSON must have a word for."""
    found: list[Any] = []

    def each(ranks: Ranks) -> None:
        said = ranks.gathered(json.dumps(work(ranks)).encode())
        found.extend(json.loads(one) for one in said)

    with forked(size, each, Path("run")) as ranks:
        each(ranks)
    return found
