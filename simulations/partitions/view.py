"""What a picture of a division shows: not more clients and classes than can be told apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roundel.simulations.partitions.holdings import Holdings
from roundel.simulations.partitions.partition import Integers

MOST_CLIENTS = 100
MOST_CLASSES = 100

OTHERS = "others"
"""The last row, if there are more classes: all that are less common than those above."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Some clients and what they hold.

    Attributes:
        clients: Their numbers, shape ``(shown,)``.
        sizes: Their examples in each part, shape ``(shown, 3)``.
        classes: What the columns of `mix` are called.
        mix: Their share of each class, shape ``(shown, classes)``; rows sum to 1, or to 0 for a
            client without examples. Without labels there are no classes.
        chosen: Whether there are more clients; those shown are then sorted by size and lie evenly
            between the smallest and the largest.
    """

    clients: Integers
    sizes: Integers
    classes: Sequence[str]
    mix: NDArray[np.float64]
    chosen: bool

    def thin(self, count: int) -> "View":
        """Return a view of fewer clients, chosen by size."""
        order = np.lexsort((self.clients, self.sizes.sum(axis=1)))
        places = order[evenly(len(order), count)]
        return View(
            clients=self.clients[places],
            sizes=self.sizes[places],
            classes=self.classes,
            mix=self.mix[places],
            chosen=self.chosen or count < len(order),
        )


def view_of(holdings: Holdings) -> View:
    """Choose what to show."""
    sizes = holdings.sizes
    everyone = np.arange(len(sizes))
    chosen = len(sizes) > MOST_CLIENTS
    places = np.argsort(sizes, kind="stable")[evenly(len(sizes), MOST_CLIENTS)]
    places = places if chosen else everyone
    classes, mix = _mix(holdings, places)
    return View(
        clients=holdings.clients[places],
        sizes=holdings.sizes_by_part[places],
        classes=classes,
        mix=mix,
        chosen=chosen,
    )


def evenly(count: int, wanted: int) -> Integers:
    """Return places from the first to the last of `count`, evenly spaced; all if that is fewer."""
    if count <= wanted:
        return np.arange(count)
    places: Integers = np.linspace(0, count - 1, wanted).round().astype(np.int64)
    return places


def _mix(holdings: Holdings, places: Integers) -> tuple[list[str], NDArray[np.float64]]:
    if holdings.labels is None:
        return [], np.empty((len(places), 0))
    counts = np.bincount(holdings.labels)
    present = np.flatnonzero(counts)
    names = [str(c) for c in present]
    row_of_class = np.full(len(counts), MOST_CLASSES - 1)
    if len(present) > MOST_CLASSES:
        common = np.argsort(-counts, kind="stable")[: MOST_CLASSES - 1]
        present, names = np.sort(common), [*(str(c) for c in np.sort(common)), OTHERS]
    row_of_class[present] = np.arange(len(present))
    row_of_client = np.full(len(holdings.clients), -1)
    row_of_client[places] = np.arange(len(places))
    client = row_of_client[holdings.owner]
    cells = client[client >= 0] * len(names) + row_of_class[holdings.labels[client >= 0]]
    table = np.bincount(cells, minlength=len(places) * len(names)).reshape(len(places), -1)
    return names, table / np.maximum(table.sum(axis=1, keepdims=True), 1)
