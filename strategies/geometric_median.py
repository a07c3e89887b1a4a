"""The geometric median by smoothed Weiszfeld iterations, and RFA."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part
from roundel.strategies.distances import norms_from
from roundel.strategies.server_optimizers import not_negative, one_of, positive
from roundel.strategies.sites import RoundContext
from roundel.strategies.weighers import Weights, weigher

Beginning = Literal["mean", "weighted mean", "zero"]


def geometric_median(
    *,
    iterations: int = 100,
    nu: float = 1e-6,
    tol: float = 1e-6,
    init: Beginning = "mean",
    weights: Weights = "uniform",
) -> Part:
    """Take the point with the smallest sum of distances to the updates.

        step = argmin over z of  sum(a_k |z - delta_k|)

    found by smoothed Weiszfeld iterations, of whole updates and not layer by layer:

        b_k = a_k / max(nu, |z - delta_k|)
        z   = sum(b_k delta_k) / sum(b_k)

    Args:
        iterations: How many at most; 0 is where it begins.
        nu: What distances are at least, above 0, in the unit of the updates.
        tol: Stop once z moves by no more than this share of the median distance, which a minority
            far away cannot stretch; 0 to go on until it moves no more.
        init: Where to begin: ``"mean"``, ``"weighted mean"`` by the a_k, or ``"zero"``, no change
            of the model, as ByzFL does (with 3 iterations and ``nu = 0.1``).
        weights: The a_k: ``"uniform"``, or ``"examples"``, which lets a client that lies say how
            much it counts.

    Needs:
        Nothing.

    Verified:
        Against closed forms (a square, a triangle, points on a line), the oracle cases, the sum
        that must be smallest at random; no iterations are the mean; permutations, shifts, scales.

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
"""Tells from two iterates, one after the other, and the tolerance whether to stop."""


@dataclass(frozen=True, kw_only=True)
class _Iterate:
    """Where an iteration stands.

    Attributes:
        point: Shape ``(D,)``.
        distances: From each row, shape ``(K,)``.
        shares: The a_k, whose sum is 1.
    """

    point: Tensor
    distances: Tensor
    shares: Tensor


def _has_settled(before: _Iterate, after: _Iterate, tol: float) -> bool:
    return bool((after.point - before.point).norm() <= tol * after.distances.median())


def _costs_as_much(before: _Iterate, after: _Iterate, tol: float) -> bool:
    cost = after.shares @ after.distances
    return bool((before.shares @ before.distances - cost).abs() < tol * cost)


def _part(
    name: str,
    stops: Stopping,
    *,
    iterations: int,
    nu: float,
    tol: float,
    init: Beginning,
    weights: Weights,
) -> Part:
    if iterations < 0:
        raise CompositionError(f"iterations = {iterations!r} must be a whole number of at least 0")
    positive("nu", nu)
    not_negative("tol", tol)
    one_of("init", init, get_args(Beginning))
    one_of("weights", weights, get_args(Weights))

    def rule(rows: Tensor, given: Tensor, _context: RoundContext) -> Tensor:
        equal = torch.ones_like(given)
        wanted = given if weights == "examples" else equal
        start = equal if init == "mean" else wanted
        point = rows.new_zeros(rows.shape[1])
        if init != "zero":
            point = start @ rows / start.sum()
        if iterations == 0:
            return point
        shares = wanted / wanted.sum()
        now = _Iterate(point=point, distances=norms_from(rows, point), shares=shares)
        for _ in range(iterations):
            before, now = now, _weiszfeld(rows, now, nu)
            if stops(before, now, tol):
                break
        return now.point

    return Part(
        name=name,
        weigher=weigher("examples") if weights == "examples" else None,
        rule=OverRows(name, rule),
    )


def _weiszfeld(rows: Tensor, now: _Iterate, nu: float) -> _Iterate:
    pulls = now.shares / now.distances.clamp(min=nu)
    point = pulls @ rows / pulls.sum()
    return replace(now, point=point, distances=norms_from(rows, point))
