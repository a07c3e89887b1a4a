"""The loss around the global models of recorded runs, in two planes.

One plane goes along the paths of the global models, the other one along what the clients of the
last round made of the model that they were sent. In each, all runs share the directions, the axes
and the grid, and each run has a slice of its own, parallel to the others, through its own global
model w_i, so that the loss there is that model's:

    loss(w_i + (x - x_i) d_1 + (y - y_i) d_2).

Parameters alone move: buffers, such as BatchNorm's running statistics, and personal layers stay as
they are in w_i. See `roundel.simulations.plane` for the directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roundel.core.errors import ConfigError
from roundel.core.landscape import Landscape, Marks, Slice, View
from roundel.simulations.plane import (
    coordinates,
    filter_normalised,
    filters_of,
    principal,
    share_held,
)
from roundel.simulations.prepare import Pieces
from roundel.simulations.walk import Models, Tell, Walk, walk

GRID = 25
"""Points of the grid along each direction."""

_MARGIN = 0.15
"""Around everything that is shown, as a share of its extent."""
_SHAPE = 0.55
"""The height of a window, as a share of its width: so four runs fit on a page."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run to draw.

    Attributes:
        path: Its directory.
        label: What to call it.
    """

    path: Path
    label: str


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A run as it is shown in a view.

    Attributes:
        label: What to call it.
        walk: Its models.
        path: Those of its path that are shown, the last one among them.
        origin: The point whose place is (0, 0), shape ``(T,)``.
    """

    label: str
    walk: Walk
    path: Models
    origin: Array


def _silent(_what: str, _done: int, _of: int) -> None:
    """Say nothing about how far it is."""


def landscape(
    sources: Sequence[Source],
    *,
    round: int | None = None,
    grid: int = GRID,
    pieces: Pieces = Pieces(),
    tell: Tell = _silent,
) -> Landscape:
    """Compute runs again and measure the loss around their global models.

    Args:
        sources: At least one run; nothing is written to their directories.
        round: After which round; by default after the last one of each.
        grid: Points of the grid along each direction.
        pieces: The same pieces that the runs began with.
        tell: Hears how far it is.

    Raises:
        ConfigError: The runs have different models, did not move in two directions, have no such
            round, or cannot be computed again here.
        RunDirectoryError: A directory is not a run's, or it is damaged.
        RunFailed: A round came out with another hash than the recorded one.
    """
    walks: list[Walk] = []
    for source in sources:
        went = walk(source.path, round=round, runs=len(sources), tell=tell, pieces=pieces)
        _check_alike(walks, went, sources)
        walks.append(went)
    centre = np.mean([went.end for went in walks], axis=0)
    labels = [source.label for source in sources]
    paths = [
        _Shown(label=label, walk=went, path=went.path, origin=centre)
        for label, went in zip(labels, walks, strict=True)
    ]
    near = [
        _Shown(label=label, walk=went, path=went.path.last(2), origin=went.end)
        for label, went in zip(labels, walks, strict=True)
    ]
    points = np.concatenate([went.path.points for went in walks])
    if (along := _directions(points, centre, walks[0])) is None:
        raise ConfigError(
            "the runs went along one line, and a plane needs two directions; draw runs of two "
            "rounds or more, or several"
        )
    offsets = np.concatenate([_offsets(went) for went in walks])
    across = _directions(offsets, centre, walks[0])
    return Landscape(
        examples=max(len(went.judge.examples) for went in walks),
        paths=_view(paths, along, points, grid, tell),
        clients=None if across is None else _view(near, across, offsets, grid, tell),
    )


def _check_alike(before: Sequence[Walk], went: Walk, sources: Sequence[Source]) -> None:
    if before and before[0].spec.fingerprint != went.spec.fingerprint:
        raise ConfigError(
            f"{sources[len(before)].path} has another model than {sources[0].path}, and one plane "
            "cannot go through both; draw them one by one"
        )


def _offsets(went: Walk) -> Array:
    """Return by how much clients, and the one that did nothing, are off what they were sent."""
    sent = went.path.last(2).points[:1]
    return np.concatenate([sent, went.clients.points]) - sent


def _directions(points: Array, centre: Array, went: Walk) -> Array | None:
    """Return two filter-normalised directions, shape ``(2, T)``; None if points have fewer."""
    found = principal(points)
    if found is None:
        return None
    filters = filters_of(went.spec)
    return np.stack([filter_normalised(direction, centre, filters) for direction in found])


def _view(runs: Sequence[_Shown], directions: Array, points: Array, grid: int, tell: Tell) -> View:
    marks = [
        (_marks(run.path, run.origin, directions), _marks(run.walk.clients, run.origin, directions))
        for run in runs
    ]
    x, y = _grid(np.concatenate([each.places for both in marks for each in both]), grid)
    return View(
        x=x,
        y=y,
        share=share_held(points, directions),
        slices=tuple(
            Slice(
                label=run.label,
                losses=_losses(run, path.places[-1], directions, (x, y), tell),
                path=path,
                clients=clients,
            )
            for run, (path, clients) in zip(runs, marks, strict=True)
        ),
    )


def _marks(models: Models, origin: Array, directions: Array) -> Marks:
    return Marks(
        numbers=np.array(models.numbers, dtype=np.int64),
        places=coordinates(models.points - origin, directions),
        losses=models.losses,
    )


def _grid(places: Array, count: int) -> tuple[Array, Array]:
    """Return the coordinates along both directions of a window with everything in it."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = (1 + 2 * _MARGIN) * (high - low)
    half = max(extent[0], extent[1] / _SHAPE) * np.array([1, _SHAPE]) / 2
    middle = (low + high) / 2
    first, second = np.linspace(middle - half, middle + half, count).T
    return first, second


def _losses(
    run: _Shown, place: Array, directions: Array, grid: tuple[Array, Array], tell: Tell
) -> Array:
    """Measure the losses of a slice through a model.

    Args:
        run: Its last model is meant.
        place: Where that lies, shape ``(2,)``.
        directions: Shape ``(2, T)``.
        grid: Coordinates along both.
        tell: Hears how far it is.

    Returns:
        Shape ``(G, G)``.
    """
    x, y = grid
    went, spec = run.walk, run.walk.spec
    shared = went.final.clone()
    losses = np.empty((len(y), len(x)))
    with went.judge.rerun.computing():
        for done, (row, column) in enumerate(np.ndindex(losses.shape), start=1):
            step = np.array([x[column], y[row]]) - place
            point = torch.from_numpy(went.end + step @ directions)
            shared[spec.shared_trainable] = point.to(spec.dtype)
            losses[row, column] = went.judge.loss(shared, went.integers)
            tell(f"the loss around {run.label}", done, losses.size)
    return losses
