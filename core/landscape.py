"""A loss landscape: slices through models, and where paths and clients lie in them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Models as they lie in a slice.

    Attributes:
        numbers: Which they are: rounds or clients, int64, shape ``(P,)``.
        places: Where in the plane they come closest, shape ``(P, 2)``.
        losses: Of the models themselves, which may lie off the plane, shape ``(P,)``.
    """

    numbers: NDArray[np.int64]
    places: Array
    losses: Array


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The slice through the global model of one run.

    Attributes:
        label: What to call the run.
        losses: At the points of the grid, shape ``(G, G)``: rows are along y, columns along x.
        path: The global model after rounds, the last one among them.
        clients: What the clients of the last round made of the model before it.
    """

    label: str
    losses: Array
    path: Marks
    clients: Marks


@dataclass(frozen=True, kw_only=True)
class View:
    """Slices along the same two directions, with the same axes.

    Attributes:
        x: The grid along the first direction, in lengths of the filters, shape ``(G,)``.
        y: Likewise along the second one.
        share: Which share of the variance of what the directions were made for they hold.
        slices: One for each run.
    """

    x: Array
    y: Array
    share: float
    slices: tuple[Slice, ...]


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """What the loss looks like around the global models of runs.

    Attributes:
        examples: On how many examples a loss is measured.
        paths: Along the directions in which the global models went.
        clients: Around the last global models, along the directions in which the clients of the
            last round went; None if these were too few.
    """

    examples: int
    paths: View
    clients: View | None

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return everything under the names that it has in an archive.

        What belongs to one run has its place in ``labels`` in its name, as in ``paths/0/losses``.
        """
        labels = [each.label for each in self.paths.slices]
        found: dict[str, NDArray[np.generic]] = {
            "labels": np.array(labels),
            "examples": np.array(self.examples),
        }
        for name, view in (("paths", self.paths), ("clients", self.clients)):
            if view is not None:
                found |= {f"{name}/{key}": array for key, array in _arrays(view).items()}
        return found


def _arrays(view: View) -> dict[str, NDArray[np.generic]]:
    found: dict[str, NDArray[np.generic]] = {
        "x": view.x,
        "y": view.y,
        "share": np.array(view.share),
    }
    for place, each in enumerate(view.slices):
        found[f"{place}/losses"] = each.losses
        for name, marks in (("path", each.path), ("clients", each.clients)):
            for key in ("numbers", "places", "losses"):
                found[f"{place}/{name}/{key}"] = getattr(marks, key)
    return found
