"""The geometric median by smoothed Weiszfeld iterations, and RFA."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part
from roundel.strategies.distances import middle, norms_from, over_columns
from roundel.strategies.server_optimizers import not_negative, one_of, positive
from roundel.strategies.sites import RoundContext
from roundel.strategies.weighers import Weights, weigher

Beginning = Literal["median", "mean", "weighted mean", "zero"]
_MILLIONTH = 1e-6
_ROUNDING = 1e-16


def geometric_median(
    *,
    iterations: int = 100,
    nu: float | None = None,
    tol: float = 1e-6,
    init: Beginning = "median",
    weights: Weights = "uniform",
) -> Part:
    """Take the point with the smallest sum of distances to the updates.

        step = argmin over z of  sum(a_k |z - delta_k|)

    found by smoothed Weiszfeld iterations, of whole updates and not layer by layer:

        b_k = a_k / max(nu, |z - delta_k|)
        z   = sum(b_k delta_k) / sum(b_k)

    It has settled where the gradient of the smoothed sum is small; near an update k, where z moves
    slowly, that is Vardi's and Zhang's condition for stopping at it:

        |sum(b_k (z - delta_k))| <= tol,  near k  |sum(a_j (z - delta_j) / |z - delta_j|)| <= a_k

    Args:
        iterations: How many at most; 0 is where it begins.
        nu: What distances are at least, above 0, in the unit of the updates; None for a millionth
            of the median distance from the median of each coordinate, so that the unit does not
            matter.
        tol: How small, where the a_k add up to 1; 0 to stop only where nothing pulls.
        init: Where to begin: ``"median"`` of each coordinate, from which no minority can drag it,
            so that few iterations do; ``"mean"``, ``"weighted mean"`` by the a_k, or ``"zero"``, no
            change of the model, as ByzFL does (with 3 iterations and ``nu = 0.1``). An update far
            away, or one that sits where it begins, costs these three iterations.
        weights: The a_k: ``"uniform"``, or ``"examples"``, which lets a client that lies say how
            much it counts.

    Needs:
        Nothing.

    Verified:
        Against closed forms (a square, a triangle, points on a line), the oracle cases, the sum
        that must be smallest at random; updates placed where it begins; permutations, shifts,
        scales.

    Source:
        K. Pillutla et al., "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
        Processing 2022, equation 4 and Algorithm 2.
    """
    return _part(
        "geometric_median",
        _has_settled,
        iterations=iterations,
        nu=nu,
        tol=tol,
        init=init,
        weights=weights,
    )


def rfa(
    *,
    iterations: int = 4,
    nu: float = 1e-5,
    tol: float = 1e-6,
    weights: Weights = "examples",
) -> Part:
    """Robust federated averaging: a few steps towards the weighted geometric median.

        b_k = a_k / max(nu, |z - delta_k|),  z = sum(b_k delta_k) / sum(b_k)

    beginning at ``z = sum(a_k delta_k)``, ``a_k = n_k / sum(n_j)``.

    Four iterations from the mean are not robust to one very long update: each takes z only a few
    times nearer, and what is left grows with that update's length. `geometric_median` begins where
    no minority can drag it and goes on until it has settled.

    Args:
        iterations: How many at most; 4 is the authors'.
        nu: What distances are at least; 1e-5 is the authors'.
        tol: Stop once the sum of distances changes by less than this share of it; 1e-6 is the
            authors'. Updates far away make that sum long, and so stop it early.
        weights: The a_k: ``"examples"`` is the authors'; a client that lies can then say how much
            it counts, which ``"uniform"`` prevents.

    Needs:
        Nothing.

    Verified:
        Against the oracle case, which the authors' code reproduces, and closed forms; no iterations
        are federated averaging.

    Source:
        K. Pillutla et al., "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
        Processing 2022, Algorithm 2.
    """
    return _part(
        "rfa",
        _costs_as_much,
        iterations=iterations,
        nu=nu,
        tol=tol,
        init="weighted mean",
        weights=weights,
    )


Stopping = Callable[["_Iterate", "_Iterate", float], bool]
"""Tells from two iterates, one after the other, and the tolerance whether to stop at the second."""


@dataclass(frozen=True, kw_only=True)
class _Iterate:
    """Where an iteration stands.

    Attributes:
        point: Shape ``(D,)``.
        distances: From each row, shape ``(K,)``.
        shares: The a_k, whose sum is 1.
        nu: What distances are at least.
        slope: How steep the smoothed sum was one iteration before; infinite at first.
    """

    point: Tensor
    distances: Tensor
    shares: Tensor
    nu: float
    slope: float = inf


def _has_settled(_before: _Iterate, after: _Iterate, tol: float) -> bool:
    return after.slope <= tol


def _costs_as_much(before: _Iterate, after: _Iterate, tol: float) -> bool:
    cost = after.shares @ after.distances
    return bool((before.shares @ before.distances - cost).abs() < tol * cost)


def _part(
    name: str,
    stops: Stopping,
    *,
    iterations: int,
    nu: float | None,
    tol: float,
    init: Beginning,
    weights: Weights,
) -> Part:
    if iterations < 0:
        raise CompositionError(f"iterations = {iterations!r} must be a whole number of at least 0")
    if nu is not None:
        positive("nu", nu)
    not_negative("tol", tol)
    one_of("init", init, get_args(Beginning))
    one_of("weights", weights, get_args(Weights))

    def rule(rows: Tensor, given: Tensor, _context: RoundContext) -> Tensor:
        wanted = given if weights == "examples" else torch.ones_like(given)
        point, least = _beginning(rows, wanted, init, nu)
        shares = wanted / wanted.sum()
        now = _Iterate(point=point, distances=norms_from(rows, point), shares=shares, nu=least)
        for _ in range(iterations):
            before, now = now, _weiszfeld(rows, now)
            if stops(before, now, tol):
                break
        return now.point

    return Part(
        name=name,
        weigher=weigher("examples") if weights == "examples" else None,
        rule=OverRows(name, rule),
    )


def _beginning(
    rows: Tensor, shares: Tensor, init: Beginning, nu: float | None
) -> tuple[Tensor, float]:
    """Return where to begin, and what distances are at least."""
    if init == "median" or nu is None:
        centre = over_columns(rows, middle)
        nu = _small(norms_from(rows, centre)) if nu is None else nu
        if init == "median":
            return centre, nu
    if init == "zero":
        return rows.new_zeros(rows.shape[1]), nu
    counted = torch.ones_like(shares) if init == "mean" else shares
    return counted @ rows / counted.sum(), nu


def _small(distances: Tensor) -> float:
    """Return a length that is small beside the distances, whatever a minority of them is."""
    median = float(distances.median())
    if median > 0:
        return _MILLIONTH * median
    # Most updates are the same one. What the others are must not matter to it.
    some = distances[distances > 0]
    return _ROUNDING * float(some.min()) if len(some) else 1.0


def _weiszfeld(rows: Tensor, now: _Iterate) -> _Iterate:
    pulls = now.shares / now.distances.clamp(min=now.nu)
    point = pulls @ rows / pulls.sum()
    slope = float(pulls.sum() * (now.point - point).norm())
    return replace(now, point=point, distances=norms_from(rows, point), slope=slope)
