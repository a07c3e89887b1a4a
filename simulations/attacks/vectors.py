"""What attackers send: the formulas, on deltas in float64.

A delta is a step that the server adds. `honest` has the deltas of those that an attacker looks at,
one a row, shape ``(K, D)`` with K at least 1. Codes of these attacks differ in sign, in the
standard deviation's divisor and in who is looked at; each choice has a name here.
"""

from math import floor
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from roundel.core.seeds import torch_generator

Direction = Literal["std", "unit", "sign"]
Mode = Literal["replace", "add"]
Sign = Literal["minus", "plus"]


def sign_flip(delta: Tensor, *, scale: float = 1.0) -> Tensor:
    """Return ``-scale * delta``.

    Of its own delta a client needs nobody else; of the mean of honest ones it is the collusive
    reading.
    """
    return -scale * delta


def gaussian(
    delta: Tensor, seed: int, *, mean: float = 0.1, std: float = 0.1, mode: Mode = "replace"
) -> Tensor:
    """Return noise from ``N(mean, std**2)``, in place of a delta or added to it.

    Args:
        delta: Shape ``(D,)``.
        seed: Of the noise.
        mean: Of each coordinate.
        std: Of each coordinate.
        mode: ``"replace"`` or ``"add"``.
    """
    draws = torch.randn(delta.shape, generator=torch_generator(seed), dtype=torch.float64)
    noise = mean + std * draws
    return noise if mode == "replace" else delta + noise


def supporters(n: int, f: int) -> int:
    """Return s: of how many honest clients attackers need the company to be a majority."""
    return floor(n / 2 + 1) - f


def z_max(n: int, f: int) -> float:
    """Return how many standard deviations off the mean still look like most of the honest.

        s = floor(n / 2 + 1) - f;   z = Phi^-1((n - f - s) / (n - f))

    Where the formula is not finite, since s is not one of the 1 to n - f - 1 honest clients, the
    nearest of these takes its place; with a single honest client z is 0. For small n it may well
    be 0 or below, and then the attack does little.

    Args:
        n: How many clients take part.
        f: How many of them attack.
    """
    honest = n - f
    if honest <= 1:
        return 0.0
    needed = min(max(supporters(n, f), 1), honest - 1)
    return NormalDist().inv_cdf((honest - needed) / honest)


def alie(honest: Tensor, *, z: float = 1.5, sign: Sign = "minus", ddof: int = 0) -> Tensor:
    """Return ``mean - z * std`` by coordinate: "a little is enough".

    Args:
        honest: Shape ``(K, D)``.
        z: How far off; `z_max` is the paper's.
        sign: ``"minus"``, or ``"plus"`` for ``mean + z * std``.
        ddof: What the divisor of the variance is short of K: 0 or 1. With one row it is 0.
    """
    std = honest.std(dim=0, correction=min(ddof, len(honest) - 1))
    return honest.mean(dim=0) + (z if sign == "plus" else -z) * std


def ipm(honest: Tensor, *, epsilon: float = 0.5) -> Tensor:
    """Return ``-epsilon * mean``: inner-product manipulation."""
    return -epsilon * honest.mean(dim=0)


def direction_of(honest: Tensor, direction: Direction) -> Tensor:
    """Return where an attacker goes from the mean.

    Args:
        honest: Shape ``(K, D)``.
        direction: ``"std"`` for minus the standard deviation by coordinate (divisor K), ``"unit"``
            for minus the mean over its norm, ``"sign"`` for minus its signs.
    """
    mean = honest.mean(dim=0)
    if direction == "std":
        return -honest.std(dim=0, correction=0)
    if direction == "sign":
        return -mean.sign()
    norm = mean.norm()
    return -mean / torch.where(norm > 0, norm, 1.0)


def min_max_gamma(honest: Tensor, towards: Tensor) -> Tensor:
    """Return the largest gamma with ``max_i |mean + gamma d - x_i| <= max_ij |x_i - x_j|``.

    Each i bounds gamma by the larger root of a quadratic, so no search is needed; the smallest of
    these bounds is gamma. It is 0 if there is no direction.

    Args:
        honest: The x, shape ``(K, D)``.
        towards: d, shape ``(D,)``.
    """
    gaps = honest.mean(dim=0) - honest
    reach = _squared_distances(honest).max()
    slope = gaps @ towards
    return _gamma(towards, slope, reach - gaps.square().sum(dim=1)).min()


def min_sum_gamma(honest: Tensor, towards: Tensor) -> Tensor:
    """Return the largest gamma that the sum of squared distances allows.

        sum_i |mean + gamma d - x_i|**2 <= max_i sum_j |x_i - x_j|**2

    Args:
        honest: The x, shape ``(K, D)``.
        towards: d, shape ``(D,)``.
    """
    gaps = honest.mean(dim=0) - honest
    reach = _squared_distances(honest).sum(dim=1).max()
    return _gamma(towards, (gaps @ towards).mean(), (reach - gaps.square().sum()) / len(honest))


def min_max(honest: Tensor, *, direction: Direction = "std") -> Tensor:
    """Return the farthest point in a direction that is no outlier by its distance to any other."""
    towards = direction_of(honest, direction)
    return honest.mean(dim=0) + min_max_gamma(honest, towards) * towards


def min_sum(honest: Tensor, *, direction: Direction = "std") -> Tensor:
    """Return the farthest point in a direction that is no outlier by the sum of its squares."""
    towards = direction_of(honest, direction)
    return honest.mean(dim=0) + min_sum_gamma(honest, towards) * towards


def flip_labels(labels: Tensor, classes: int) -> Tensor:
    """Return ``classes - 1 - y`` of each label y."""
    return classes - 1 - labels


def _squared_distances(rows: Tensor) -> Tensor:
    """Return the squares of all distances between rows; by differences, which are exact enough."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


def _gamma(towards: Tensor, slope: Tensor, room: Tensor) -> Tensor:
    """Return the larger root of ``|d|**2 g**2 + 2 slope g - room``; 0 where d is 0."""
    square = towards.square().sum()
    root = (slope.square() + square * room.clamp(min=0)).sqrt()
    return torch.where(square > 0, (root - slope) / torch.where(square > 0, square, 1.0), 0.0)
