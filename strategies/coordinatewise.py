"""Robust rules that look at each coordinate on its own: the median and the trimmed mean."""

from typing import Literal, get_args

from torch import Tensor

from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part
from roundel.strategies.distances import middle, over_columns
from roundel.strategies.server_optimizers import one_of
from roundel.strategies.sites import RoundContext
from roundel.strategies.tolerance import Tolerance

IfNothing = Literal["error", "mean"]


def _median(rows: Tensor, _weights: Tensor, _context: RoundContext) -> Tensor:
    return over_columns(rows, middle)


MEDIAN = OverRows("median", _median)


def median() -> Part:
    """Take the median of each coordinate.

        step[j] = median over k of delta_k[j]

    Of an even number of updates it is the mean of the middle two. Weights play no part, since
    clients say their own number of examples.

    Needs:
        Nothing.

    Verified:
        By hand, against the oracle cases and, at random, against Flower 1.41's FedMedian and a
        sorted list of each column; permutations, shifts and scales.

    Source:
        D. Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        ICML 2018, Algorithm 1, option I.
    """
    return Part(name="median", rule=MEDIAN)


def trimmed_mean(
    *, f: int | None = None, fraction: float = 0.2, if_nothing: IfNothing = "error"
) -> Part:
    """Leave out the f smallest and the f largest values of each coordinate and average the rest.

        step[j] = sum(delta_(k)[j] for k = f + 1, ..., n - f) / (n - 2 f)

    where ``delta_(k)[j]`` is the k-th smallest of the n values that arrived. Weights play no part.

    Args:
        f: How many to leave out at either end, less than half of the updates; None for `fraction`
            of them. 0 is the unweighted mean.
        fraction: In [0, 0.5), rounded down to whole updates as Flower and scipy do; 0.2 is
            Flower's. The paper's theorem wants at least the share of clients that lie.
        if_nothing: What to do where a fraction above 0 comes to no update at all: ``"error"`` ends
            the run, ``"mean"`` takes the unweighted mean as Flower and scipy do.

    Needs:
        Nothing.

    Verified:
        By hand, against the oracle cases, Flower 1.41's FedTrimmedAvg and scipy's trim_mean at
        random; f = 0 is the mean; permutations, shifts and scales.

    Source:
        D. Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        ICML 2018, Algorithm 1, option II.
    """
    one_of("if_nothing", if_nothing, get_args(IfNothing))
    tolerance = Tolerance(
        rule="trimmed_mean",
        f=f,
        fraction=fraction,
        least=lambda f: 2 * f + 1,
        or_none=if_nothing == "mean",
    )

    def rule(rows: Tensor, _weights: Tensor, _context: RoundContext) -> Tensor:
        n = len(rows)
        cut = tolerance.of(n)
        return over_columns(rows, lambda columns: columns[:, cut : n - cut].mean(dim=1))

    name = f"trimmed_mean({tolerance})"
    return Part(name=name, rule=OverRows(name, rule, check=tolerance.of))
