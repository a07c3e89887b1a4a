"""How many examples each client gets: shares into whole numbers, and least sizes."""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from roundel.core.errors import DataError
from roundel.core.seeds import derive
from roundel.simulations.partitions.partition import Integers, grouped, starts


def generator_of(seed: int) -> np.random.Generator:
    """Return the generator of the division that belongs to a data seed."""
    return np.random.Generator(np.random.PCG64(derive(seed, "partition")))


def check_enough(examples: int, clients: int, min_examples: int) -> None:
    """Check that every client can get the minimum.

    Raises:
        DataError: It cannot.
    """
    if clients * min_examples > examples:
        raise DataError(
            f"partition.clients = {clients} with partition.min_examples = {min_examples} need "
            f"{clients * min_examples} examples and the pool has {examples}; lower one of the two"
        )


def portions(weights: NDArray[np.float64], count: int, generator: np.random.Generator) -> Integers:
    """Divide a number of examples in proportion to weights.

    Args:
        weights: Not negative, and one of them 1 or more, shape ``(clients,)``.
        count: How many examples there are.
        generator: Draws one number, which decides what is rounded up.

    Returns:
        Shape ``(clients,)``; the sum is `count`, and each is its share times `count`, rounded up or
        down with that as the expected value.
    """
    ends = np.cumsum(weights)
    cuts = np.floor(ends / ends[-1] * count + generator.random()).astype(np.int64)
    cuts[-1] = count
    rounded: Integers = np.diff(np.minimum(cuts, count), prepend=0)
    return rounded


def fill_up(sizes: Integers, minimum: int) -> Integers:
    """Return sizes of which none is below a minimum, taking from the largest.

    The result is that of a loop in which the largest client (of several, the one with the lowest
    number) gives one example to a client below the minimum, until there is none. It is computed
    from the level to which that loop cuts the largest clients down.

    Args:
        sizes: Shape ``(clients,)``.
        minimum: At most the mean of `sizes`.

    Returns:
        Shape ``(clients,)``, with the same sum.
    """
    need = int(np.maximum(minimum - sizes, 0).sum())
    if need == 0:
        return sizes

    def freed(level: int) -> int:
        return int(np.maximum(sizes - level, 0).sum())

    # The largest clients end at this level or one above it.
    levels = range(minimum, int(sizes.max()) + 1)
    level = levels[bisect_right(levels, -need, key=lambda at: -freed(at)) - 1]
    filled = np.clip(sizes, minimum, level + 1)
    filled[np.flatnonzero(sizes > level)[: need - freed(level + 1)]] = level
    return filled


def with_minimum(
    owner: Integers, clients: int, minimum: int, generator: np.random.Generator
) -> Integers:
    """Return an assignment in which every client has the minimum, its sizes those of `fill_up`.

    What a client gives is a random part of what it has.

    Args:
        owner: The client of each example, shape ``(examples,)``.
        clients: How many clients there are.
        minimum: At most the mean size.
        generator: Chooses the examples that are given.
    """
    sizes = np.bincount(owner, minlength=clients)
    if sizes.min() >= minimum:
        return owner
    wanted = fill_up(sizes, minimum)
    shuffled = generator.permutation(len(owner))
    by_client = shuffled[grouped(owner[shuffled])]
    place_at_client = np.arange(len(owner)) - np.repeat(starts(sizes)[:-1], sizes)
    given = by_client[place_at_client >= np.repeat(wanted, sizes)]
    filled = owner.copy()
    filled[given] = np.repeat(np.arange(clients), np.maximum(wanted - sizes, 0))
    return filled
