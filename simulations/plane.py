"""The plane in which a loss landscape is drawn: two directions, and where models lie in it.

Hao Li, Zheng Xu, Gavin Taylor, Christoph Studer, Tom Goldstein: "Visualizing the loss landscape of
neural nets", 2018. A random plane shows next to nothing of a path that was trained, so the
directions are the two leading principal ones of the points that are to be seen, section 7 there.
Each is then *filter normalised*, section 4 there: with d a direction, w the centre and f a filter,

    d_f <- d_f * |w_f| / |d_f|,

so that a step of length 1 changes each filter by as much as it is long, and slices of models whose
weights are of different size can be compared. A filter is what makes one output: a row of a matrix,
one output channel of a convolution. A tensor with one axis, such as a bias, is one filter here.

Since that turns the directions a little, they hold less of the points than the principal plane
does; `share_held` says how much is left.
"""

import numpy as np
from numpy.typing import NDArray

from roundel.core.params import ParamSpec

Array = NDArray[np.float64]

_TINY = 1e-12
"""What is smaller than this share of the largest extent is rounding."""


def filters_of(spec: ParamSpec) -> NDArray[np.int64]:
    """Return the number of the filter of each shared trainable parameter, shape ``(T,)``."""
    numbers: list[NDArray[np.int64]] = []
    count = 0
    for entry in spec.entries:
        if not entry.trainable or entry.personal:
            continue
        filters = entry.shape[0] if len(entry.shape) > 1 else 1
        each = entry.numel // filters if filters else 0
        numbers.append(np.repeat(np.arange(count, count + filters), each))
        count += filters
    return np.concatenate(numbers)


def filter_norms(vector: Array, filters: NDArray[np.int64]) -> Array:
    """Return the Euclidean norm of each filter.

    Args:
        vector: Shape ``(T,)``.
        filters: See `filters_of`.
    """
    norms: Array = np.sqrt(np.bincount(filters, weights=vector * vector))
    return norms


def filter_normalised(direction: Array, centre: Array, filters: NDArray[np.int64]) -> Array:
    """Give each filter of a direction the norm that it has in the centre.

    Args:
        direction: Shape ``(T,)``; a filter that is 0 stays so.
        centre: Shape ``(T,)``.
        filters: See `filters_of`.
    """
    own, wanted = filter_norms(direction, filters), filter_norms(centre, filters)
    scale = np.divide(wanted, own, out=np.zeros_like(own), where=own > _TINY * own.max())
    scaled: Array = direction * scale[filters]
    return scaled


def principal(points: Array) -> Array | None:
    """Return the two orthonormal directions along which points spread most.

    The last point does not lie behind the first one along either of them, so that signs do not hang
    on the library.

    Args:
        points: Shape ``(P, T)``.

    Returns:
        Shape ``(2, T)``; None if all points lie on one line.
    """
    centred = points - points.mean(axis=0)
    values, weights = np.linalg.eigh(centred @ centred.T)  # P is small and T may be large
    if len(values) < 2 or values[-2] <= _TINY * values[-1]:  # noqa: PLR2004 - a plane has two
        return None
    directions = weights[:, :-3:-1].T @ centred
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    along = directions @ (points[-1] - points[0])
    signed: Array = np.where(along < 0, -1.0, 1.0)[:, None] * directions
    return signed


def coordinates(offsets: Array, directions: Array) -> Array:
    """Return where in the plane of two directions points come closest, shape ``(P, 2)``.

    Args:
        offsets: From the origin of the plane, shape ``(P, T)``.
        directions: Shape ``(2, T)``, not parallel; they need not be orthogonal.
    """
    gram = directions @ directions.T
    return np.asarray(np.linalg.solve(gram, directions @ offsets.T).T, dtype=np.float64)


def share_held(points: Array, directions: Array) -> float:
    """Return which share of the variance of points lies within a plane, from 0 to 1.

    Args:
        points: Shape ``(P, T)``.
        directions: Shape ``(2, T)``.
    """
    centred = points - points.mean(axis=0)
    rest = centred - coordinates(centred, directions) @ directions
    return float(1 - (rest * rest).sum() / (centred * centred).sum())
