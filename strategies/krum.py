"""Krum and Multi-Krum: believe the updates that have the nearest neighbours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part
from roundel.strategies.distances import squared_distances
from roundel.strategies.server_optimizers import at_least_one, one_of
from roundel.strategies.sites import RoundContext
from roundel.strategies.tolerance import Tolerance
from roundel.strategies.weighers import Weights, weigher

Convention = Literal["paper", "flower", "byzfl", "lpd-epfl", "epfml", "moranant"]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One way in which Krum has been written down.

    Attributes:
        neighbours: From n and f to how many of the others count.
        length: From squared distances to what is added up.
        keeps: From n and f to how many updates Multi-Krum averages.
        least: From f to how few updates will do.
        weights: How Multi-Krum weighs what it averages.
        sums: Whether it adds them up in place of averaging them.
    """

    neighbours: Callable[[int, int], int]
    length: Callable[[Tensor], Tensor]
    keeps: Callable[[int, int], int]
    least: Callable[[int], int]
    weights: Weights = "uniform"
    sums: bool = False


def _nearly_all(n: int, f: int) -> int:
    return n - f - 2


def _squared(squares: Tensor) -> Tensor:
    return squares


_PAPER = _Reading(
    neighbours=_nearly_all, length=_squared, keeps=_nearly_all, least=lambda f: 2 * f + 3
)

_READINGS: dict[str, _Reading] = {
    "paper": _PAPER,
    "flower": _Reading(
        neighbours=lambda n, f: max(1, n - f - 2),
        length=_squared,
        keeps=lambda _n, _f: 1,
        least=lambda _f: 1,
        weights="examples",
    ),
    "byzfl": _Reading(
        neighbours=lambda n, f: n - f - 1,
        length=_squared,
        keeps=lambda n, f: n - f,
        least=lambda f: 2 * f + 1,
    ),
    "lpd-epfl": _Reading(
        neighbours=lambda n, f: n - f - 1,
        length=torch.sqrt,
        keeps=_nearly_all,
        least=lambda f: 2 * f + 3,
    ),
    "epfml": _Reading(
        neighbours=_nearly_all,
        length=torch.square,
        keeps=_nearly_all,
        least=lambda f: 2 * f + 3,
        sums=True,
    ),
    "moranant": _Reading(
        neighbours=lambda n, f: n - f,
        length=torch.sqrt,
        keeps=_nearly_all,
        least=lambda f: 2 * f + 3,
    ),
}


def krum(*, f: int | None = None, fraction: float = 0.2, convention: Convention = "paper") -> Part:
    """Take the one update whose neighbours are nearest.

        s(k) = sum of |delta_k - delta_j|**2 over the n - f - 2 updates j nearest to k
        step = delta_k  with the smallest s(k), of equals that of the lowest client number

    It needs ``n > 2 f + 2`` updates. Each channel is decided on its own.

    Args:
        f: How many of the updates may be anything; None for `fraction` of them.
        fraction: In [0, 0.5), rounded down to whole updates.
        convention: Which of the published codes to follow. They differ in the neighbours that count
            and in the power of the distance: ``"paper"`` n-f-2 and 2; ``"flower"`` the same, but at
            least 1 neighbour for any n; ``"byzfl"`` n-f-1 and 2; ``"lpd-epfl"`` n-f-1 and 1;
            ``"epfml"`` n-f-2 and 4; ``"moranant"``, the authors of ALIE, n-f and 1.

    Needs:
        Nothing.

    Verified:
        By hand, against the oracle cases and, at random, against Flower 1.41's Krum and a slow
        loop for every convention; permutations, shifts and scales.

    Source:
        P. Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient
        Descent", NeurIPS 2017, section 4.
    """
    tolerance = _tolerance("krum", f, fraction, convention)

    def rule(rows: Tensor, _weights: Tensor, _context: RoundContext) -> Tensor:
        scores = krum_scores(rows, tolerance.of(len(rows)), convention)
        return rows[int(lowest(scores, 1))].clone()

    name = f"krum({tolerance})"
    return Part(name=name, rule=OverRows(name, rule, check=tolerance.of))


def multi_krum(
    *,
    f: int | None = None,
    fraction: float = 0.2,
    m: int | None = None,
    weights: Weights | None = None,
    convention: Convention = "paper",
) -> Part:
    """Average the m updates whose neighbours are nearest.

        step = sum(delta_k for the m smallest s(k)) / m

    with the scores ``s(k)`` of `krum`.

    Args:
        f: As in `krum`.
        fraction: As in `krum`.
        m: How many to average. The paper's theorem covers up to n-f-2, which is the default; that
            of ``"byzfl"`` is n-f and that of ``"flower"`` 1.
        weights: ``"uniform"``, or ``"examples"``, which lets a client that lies say how much it
            counts. None for what the convention does: ``"flower"`` weighs by examples, all others
            uniformly.
        convention: As in `krum`; ``"epfml"`` returns the sum in place of the mean.

    Needs:
        Nothing.

    Verified:
        By hand, against the oracle cases and, at random, against Flower 1.41's MultiKrum; m = n is
        the mean, m = 1 is Krum.

    Source:
        P. Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient
        Descent", NeurIPS 2017, section 5.
    """
    tolerance = _tolerance("multi_krum", f, fraction, convention)
    reading = _READINGS[convention]
    if m is not None:
        at_least_one("m", m)
    used = reading.weights if weights is None else weights

    def counts_of(n: int) -> tuple[int, int]:
        """Return how many updates may be anything, and how many are averaged."""
        lying = tolerance.of(n)
        keep = reading.keeps(n, lying) if m is None else m
        if keep > n:
            raise CompositionError(
                f"multi_krum is to average m = {keep} updates, and {n} arrived; lower m, or raise "
                "cohort.size or cohort.quorum"
            )
        return lying, keep

    def rule(rows: Tensor, given: Tensor, _context: RoundContext) -> Tensor:
        lying, keep = counts_of(len(rows))
        best = lowest(krum_scores(rows, lying, convention), keep)
        counts = torch.zeros_like(given)
        counts[best] = given[best] if used == "examples" else 1.0
        total = counts @ rows
        return total if reading.sums else total / counts.sum()

    name = f"multi_krum({tolerance})"
    return Part(
        name=name,
        weigher=weigher("examples") if used == "examples" else None,
        rule=OverRows(name, rule, check=counts_of),
    )


def krum_scores(rows: Tensor, f: int, convention: Convention = "paper") -> Tensor:
    """Return how far each row ``(K, D)`` is from its nearest neighbours, shape ``(K,)``.

    Args:
        rows: The updates.
        f: How many of them may be anything.
        convention: As in `krum`.
    """
    return scores_of(squared_distances(rows), f, convention)


def scores_of(squares: Tensor, f: int, convention: Convention = "paper") -> Tensor:
    """Return the same from squared distances ``(K, K)``."""
    reading = _READINGS[convention]
    n = len(squares)
    near = to_others(squares)[0][:, : min(reading.neighbours(n, f), n - 1)]
    return reading.length(near).sum(dim=1)


def to_others(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's distances to all others, nearest first, and who they are.

    Args:
        squares: Shape ``(K, K)``.

    Returns:
        Both of shape ``(K, K - 1)``; of equals the lowest number comes first.
    """
    apart = squares.clone().fill_diagonal_(torch.inf)
    near, who = apart.sort(dim=1, stable=True)
    return near[:, :-1], who[:, :-1]


def lowest(scores: Tensor, count: int) -> Tensor:
    """Return the places of the `count` smallest, best first; of equals the first comes first."""
    return scores.sort(stable=True).indices[:count]


def _tolerance(rule: str, f: int | None, fraction: float, convention: str) -> Tolerance:
    one_of("convention", convention, get_args(Convention))
    return Tolerance(rule=rule, f=f, fraction=fraction, least=_READINGS[convention].least)
