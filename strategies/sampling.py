"""Drawing clients by a seed, at a cost that follows how many are drawn."""

from collections.abc import Iterator, Sequence
from math import floor, log, log1p

import numpy as np
import torch

from roundel.core.seeds import integers_below, sample, torch_generator
from roundel.strategies.sites import Selection, Selector

_FINE = 1 << 53


def in_random_order(population: int, seed: int) -> Iterator[int]:
    """Yield every number of ``range(population)`` once, all orders equally likely.

    The cost grows with how many are taken: places that nobody has touched are not stored.

    Args:
        population: How many there are.
        seed: Any value that `roundel.core.seeds.derive` returned.
    """
    moved: dict[int, int] = {}
    bounds = (population - place for place in range(population))
    for place, step in enumerate(integers_below(bounds, seed)):
        target = place + step
        yield moved.get(target, target)
        moved[target] = moved.pop(place, place)


def each_by_chance(population: int, probability: float, seed: int) -> list[int]:
    """Return each number of ``range(population)`` with this probability, independently; sorted.

    What lies between one that is chosen and the next has the geometric distribution, which is drawn
    by inverting its distribution function. So the outcome is exactly that of one coin a number,
    while only those that are chosen cost anything.

    Args:
        population: How many there are.
        probability: Above 0, at most 1.
        seed: Any value that `roundel.core.seeds.derive` returned.
    """
    if probability >= 1:
        return list(range(population))
    chosen: list[int] = []
    place = -1
    for draw in integers_below(iter(lambda: _FINE, 0), seed):
        place += 1 + floor(log((draw + 0.5) / _FINE) / log1p(-probability))
        if place >= population:
            break
        chosen.append(place)
    return chosen


def by_weight(weights: Sequence[int], size: int, seed: int) -> list[int]:
    """Return `size` distinct places, drawn one after another by the weights of those left; sorted.

    Each place waits an exponential time whose rate is its weight, and those that wait least are
    taken (P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006).

    Args:
        weights: None below 0. A place of weight 0 is never drawn, so there may be fewer.
        size: How many at most.
        seed: Any value that `roundel.core.seeds.derive` returned.
    """
    rates = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    generator = torch_generator(seed)
    draws = torch.rand(len(rates), generator=generator, dtype=torch.float64)
    waits = -torch.log1p(-draws) / rates
    possible = min(size, int((rates > 0).sum()))
    first = waits.masked_fill(rates == 0, torch.inf).topk(possible, largest=False)
    chosen: list[int] = first.indices.sort().values.tolist()
    return chosen


def _uniform(selection: Selection) -> list[int]:
    return sample(selection.population, selection.size, selection.seed)


UNIFORM = Selector(name="uniform", select=_uniform)
"""Uniformly at random without replacement."""
