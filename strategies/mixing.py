"""What mixes updates before a robust rule sees them: nearest neighbours and bucketing.

Robust rules discard honest clients whose data differs; mixed updates differ less.
"""

import torch
from torch import Tensor

from roundel.core.seeds import derive, torch_generator
from roundel.strategies.compose import Part
from roundel.strategies.distances import squared_distances
from roundel.strategies.server_optimizers import at_least_one
from roundel.strategies.sites import RoundContext
from roundel.strategies.tolerance import Tolerance


def nnm(*, f: int | None = None, fraction: float = 0.2) -> Part:
    """Replace each update by the mean of its nearest neighbours, before the rule sees it.

        y_k = mean of the n - f updates nearest to delta_k, delta_k among them

    Of equally near ones the lowest client numbers count. Each channel is mixed on its own; what is
    mixed weighs the same. Without a rule the mixed updates are averaged.

    Args:
        f: How many of the updates may be anything, less than half; None for `fraction` of them.
        fraction: In [0, 0.5), rounded down to whole updates. Give the rule the same.

    Needs:
        Nothing. The server holds the updates twice.

    Verified:
        By hand and, at random, against a slow loop; f = 0 makes all updates their mean;
        permutations, shifts and scales.

    Source:
        Y. Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under
        Heterogeneity", AISTATS 2023, Algorithm 2.
    """
    tolerance = Tolerance(rule="nnm", f=f, fraction=fraction, least=lambda f: 2 * f + 1)

    def mix(rows: Tensor, _context: RoundContext) -> Tensor:
        n = len(rows)
        near = squared_distances(rows).fill_diagonal_(-1)  # oneself comes first, also among equals
        nearest = near.sort(dim=1, stable=True).indices[:, : n - tolerance.of(n)]
        counted = rows.new_zeros(n, n).scatter_(1, nearest, 1.0)
        return (counted @ rows).div_(nearest.shape[1])

    return Part(name=f"nnm({tolerance})", mixers=(mix,))


def bucketing(*, s: int = 2) -> Part:
    """Average random buckets of s updates, before the rule sees them.

        y_i = mean of the updates s (i - 1) + 1, ..., s i  in a random order

    The last of the ``ceil(n / s)`` buckets may be smaller. A client that lies spoils one bucket:
    the rule's f stays, its fraction must be s times as large. All channels have the same buckets;
    what is mixed weighs the same. Without a rule the buckets are averaged.

    Args:
        s: How many updates a bucket holds; 1 mixes nothing, 2 is what the paper recommends.

    Needs:
        Nothing. The server holds the updates once more, s times smaller.

    Verified:
        By hand for buckets of one and of all; each update is in one bucket; the same seed gives the
        same buckets, in every channel.

    Source:
        S. P. Karimireddy et al., "Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing", ICLR 2022, Algorithm 1.
    """
    at_least_one("s", s)

    def mix(rows: Tensor, context: RoundContext) -> Tensor:
        generator = torch_generator(derive(context.seed, "bucketing"))
        buckets = torch.randperm(len(rows), generator=generator).split(s)
        means = rows.new_empty(len(buckets), rows.shape[1])
        for mean, bucket in zip(means, buckets, strict=True):
            torch.mean(rows[bucket], dim=0, out=mean)
        return means

    return Part(name=f"bucketing(s={s})", mixers=(mix,))
