"""Bulyan: select by Krum, then trim what is left around its median."""

from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part
from roundel.strategies.distances import middle, over_columns, squared_distances
from roundel.strategies.krum import lowest, scores_of, to_others
from roundel.strategies.server_optimizers import one_of
from roundel.strategies.sites import RoundContext
from roundel.strategies.tolerance import Tolerance

Selecting = Literal["iterated", "one-shot"]


def bulyan(
    *, f: int | None = None, fraction: float = 0.15, selection: Selecting = "iterated"
) -> Part:
    """Select updates by Krum, then average the values of each coordinate around their median.

        S       = theta = n - 2 f updates, one after another: the winner of Krum among those left
        step[j] = mean of the theta - 2 f values nearest to median(delta_k[j] for k in S)

    It needs ``n >= 4 f + 3`` updates. While they shrink to 2 f + 1, Krum counts the n' - f - 2
    nearest neighbours, at least 1. Of two values as far from the median the smaller counts.

    Args:
        f: How many of the updates may be anything; None for `fraction` of them.
        fraction: In [0, 0.25), rounded down to whole updates. 0.15 works for any number of updates
            that could bear a single one.
        selection: ``"iterated"`` is the paper's; ``"one-shot"`` takes the theta best by Krum's
            scores among all, as Flower does.

    Needs:
        Nothing.

    Verified:
        By hand, against the oracle case in both readings, at random against Flower 1.41's Bulyan,
        its older aggregate_bulyan and a slow loop; permutations, shifts and scales.

    Source:
        E. M. El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in Byzantium",
        ICML 2018, section 4.
    """
    one_of("selection", selection, get_args(Selecting))
    tolerance = Tolerance(
        rule="bulyan", f=f, fraction=fraction, below=0.25, least=lambda f: 4 * f + 3
    )

    def rule(rows: Tensor, _weights: Tensor, _context: RoundContext) -> Tensor:
        lying = tolerance.of(len(rows))
        selected = bulyan_selection(rows, lying, selection)
        kept = len(selected) - 2 * lying
        return over_columns(
            rows, lambda columns: _mean_around_median(columns, kept), selected.sort().values
        )

    name = f"bulyan({tolerance})"
    return Part(name=name, rule=OverRows(name, rule, check=tolerance.of))


def bulyan_selection(rows: Tensor, f: int, selection: Selecting = "iterated") -> Tensor:
    """Return the numbers of the ``n - 2 f`` rows ``(n, D)`` that Krum selects, in its order."""
    squares = squared_distances(rows)
    theta = len(rows) - 2 * f
    if selection == "one-shot":
        return lowest(scores_of(squares, f), theta)
    return _iterated(squares, f, theta)


def _iterated(squares: Tensor, f: int, theta: int) -> Tensor:
    """Let Krum select and remove one row after another.

    Each row's neighbours stay as they are but for one: the row that was removed, or, if that was
    none of them, the farthest, since one neighbour less counts now. So a removal changes one number
    in each row of ``terms``, whose sums are the scores.
    """
    n = len(squares)
    near, who = to_others(squares)
    places = torch.arange(n - 1).expand(n, n - 1)
    rank = torch.full((n, n), n, dtype=torch.int64).scatter_(1, who, places)
    count = max(1, n - f - 2)
    terms = near.clone()
    terms[:, count:] = 0
    last = torch.full((n,), count - 1)  # the place of each row's farthest neighbour that counts
    left = torch.ones(n, dtype=torch.bool)
    everyone = torch.arange(n)
    selected: list[int] = []
    while len(selected) < theta:
        candidates = everyone[left]
        best = int(candidates[terms.sum(dim=1)[candidates].argmin()])
        selected.append(best)
        left[best] = False
        rows = everyone[left]
        if len(rows) <= 1:
            terms[rows] = 0
            continue
        place = rank[rows, best]
        was_near = place <= last[rows]
        shrinks = n - len(selected) - f - 2 >= 1
        if not shrinks:  # one neighbour counts as before: the nearest that is left
            rows = rows[was_near]
            terms[rows, last[rows]] = 0
            last[rows] = _next_left(who, left, rows, last[rows], 1)
            terms[rows, last[rows]] = near[rows, last[rows]]
            continue
        terms[rows, torch.where(was_near, place, last[rows])] = 0
        last[rows] -= (~was_near).long()
        last[rows] = _next_left(who, left, rows, last[rows], -1)
    return torch.tensor(selected)


def _next_left(who: Tensor, left: Tensor, rows: Tensor, places: Tensor, step: int) -> Tensor:
    """Move each place along its row of `who` until it is at one that is left."""
    while bool((gone := ~left[who[rows, places]]).any()):
        places = places + step * gone.long()
    return places


def _mean_around_median(columns: Tensor, kept: int) -> Tensor:
    """Return the mean of the `kept` values nearest to the median of sorted columns ``(C, K)``."""
    count = columns.shape[1]
    centre = middle(columns).unsqueeze(1)
    # The nearest stand side by side: move on while the next one is nearer than the first.
    ahead = columns[:, kept:] - centre < centre - columns[:, : count - kept]
    begin = ahead.sum(dim=1, keepdim=True)
    places = torch.arange(count)
    inside = (places >= begin) & (places < begin + kept)
    return torch.where(inside, columns, 0.0).sum(dim=1) / kept
