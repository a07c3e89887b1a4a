"""Label skew by Dirichlet distributions, in the two kinds that share the name."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roundel.simulations.partitions.labels import class_numbers
from roundel.simulations.partitions.partition import Integers, Partition, grouped, starts
from roundel.simulations.partitions.sizes import (
    check_enough,
    generator_of,
    portions,
    with_minimum,
)

_SMALLEST_ALPHA = 1e-300
"""Below it the logarithm of a share would leave float64; long before, one client has all."""


def dirichlet(
    labels: Tensor, clients: int, alpha: float, min_examples: int, seed: int
) -> Partition:
    """Divide each class over the clients in proportions drawn from a Dirichlet distribution.

    For every class c the shares of the clients are drawn, ``p_c ~ Dir(alpha, ..., alpha)`` over
    clients, and client k gets the fraction ``p_ck`` of the examples of that class. Both the mix of
    classes and the number of examples therefore differ between clients. This is the kind of
    Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks" (ICML 2019,
    arXiv:1905.12022), which Li et al., "Federated Learning on Non-IID Data Silos" (ICDE 2022,
    arXiv:2102.02079), made common. It is *not* that of `class_prior`: at the same alpha the two are
    different distributions.

    It departs from the code that goes with those papers in three points:

    * That code gives nothing more to a client that already has its even share; the papers do not
      mention it, and it is not done here.
    * Fractions of examples are rounded with one random offset a class, not always down, so that a
      client's expected number is exact and does not depend on its place in the order.
    * That code draws again until every client has enough. Here one draw is made, and then the
      clients below the minimum are filled up: again and again the client that is the largest (of
      several, the one with the lowest number) gives one of its examples, chosen at random,
      see `roundel.simulations.partitions.sizes.fill_up`. With a minimum of 0 the draw stays as it
      is.

    Args:
        labels: The class number of every example, shape ``(examples,)``.
        clients: How many clients there are.
        alpha: Concentration, positive: towards 0 each class is at one client, towards infinity
            every client has the mix of the pool.
        min_examples: The least that a client gets; 0 allows clients without examples.
        seed: The experiment's data seed.

    Raises:
        DataError: There are too few examples, or the labels are not class numbers.
    """
    numbers = class_numbers(labels)
    check_enough(len(numbers), clients, min_examples)
    generator = generator_of(seed)
    shuffled = generator.permutation(len(numbers))
    by_class = shuffled[grouped(numbers[shuffled])]
    counts = np.bincount(numbers)
    everyone = np.arange(clients)
    weights = np.full(clients, alpha)
    owners = [
        np.repeat(everyone, portions(_shares(weights, generator), int(count), generator))
        for count in counts[counts > 0]
    ]
    owner = np.empty(len(numbers), dtype=np.int64)
    owner[by_class] = np.concatenate([np.empty(0, dtype=np.int64), *owners])
    return Partition.of(with_minimum(owner, clients, min_examples, generator), clients, "dirichlet")


def class_prior(
    labels: Tensor, clients: int, alpha: float, min_examples: int, seed: int
) -> Partition:
    """Give all clients the same number of examples, each with a mix of classes of its own.

    For every client k a mix is drawn around the class frequencies p of the pool,
    ``q_k ~ Dir(alpha * p)`` over classes, and its examples are drawn from the classes by that mix,
    without replacement. Sizes differ by one at most. This is the kind of Hsu et al., "Measuring the
    Effects of Non-Identical Data Distribution for Federated Visual Classification" (2019,
    arXiv:1909.06335). Since the p sum to one, alpha is the sum of the concentrations of all
    classes, not that of each.

    All examples are used, so classes run out. Serving one client after another would leave the
    last ones with what nobody wanted. Here all are served at once: every client draws the classes
    of all that it still lacks from its mix over the classes that are left; where a class is asked
    for more often than it has examples, lots decide who gets them; and those who went away empty
    draw again. Each time a class is emptied, so it ends after as many times as there are classes,
    and no client is favoured. The price: with a small alpha, clients that want the same class share
    it, and their mixes are less pure than those that were drawn.

    Args:
        labels: The class number of every example, shape ``(examples,)``.
        clients: How many clients there are.
        alpha: Concentration, positive: towards 0 a client has one class as long as there is
            enough, towards infinity every client has the mix of the pool.
        min_examples: The least that a client gets; 0 allows clients without examples.
        seed: The experiment's data seed.

    Raises:
        DataError: There are too few examples, or the labels are not class numbers.
    """
    numbers = class_numbers(labels)
    check_enough(len(numbers), clients, min_examples)
    generator = generator_of(seed)
    present, numbers, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    shuffled = generator.permutation(len(numbers))
    by_class = shuffled[grouped(numbers[shuffled])]
    sizes = np.full(clients, len(numbers) // clients)
    sizes[generator.permutation(clients)[: len(numbers) % clients]] += 1
    weights = np.broadcast_to(alpha * (counts / max(len(numbers), 1)), (clients, len(present)))
    log_shares = _log_shares(weights, generator)
    owner = np.empty(len(numbers), dtype=np.int64)
    lacking = np.repeat(np.arange(clients), sizes)
    left, first = counts.copy(), starts(counts)[:-1]
    while len(lacking) > 0:
        wanted = _wanted(log_shares, lacking, np.flatnonzero(left), generator)
        lots = generator.permutation(len(lacking))
        queue = lots[grouped(wanted[lots])]
        label = wanted[queue]
        rank = np.arange(len(queue)) - starts(np.bincount(label))[label]
        served = rank < left[label]
        owner[by_class[(first[label] + rank)[served]]] = lacking[queue[served]]
        given = np.bincount(label[served], minlength=len(left))
        left, first = left - given, first + given
        lacking = lacking[np.sort(queue[~served])]
    return Partition.of(owner, clients, "class-prior")


def _wanted(
    log_shares: NDArray[np.float64],
    lacking: Integers,
    left: Integers,
    generator: np.random.Generator,
) -> Integers:
    """Draw a class for each example that a client lacks, from its mix over classes that are left.

    Args:
        log_shares: The clients' mixes, shape ``(clients, classes)``.
        lacking: The client of each such example, ascending, shape ``(examples,)``.
        left: The classes that are left, ascending, shape ``(n,)``.
        generator: Draws.

    Returns:
        Shape ``(examples,)``.
    """
    is_first = np.diff(lacking, prepend=-1) > 0
    row = np.cumsum(is_first) - 1
    logarithms = log_shares[np.ix_(lacking[is_first], left)]
    ends = np.exp(logarithms - logarithms.max(axis=1, keepdims=True)).cumsum(axis=1)
    ends /= ends[:, -1:]
    # All rows are searched at once: row r lies between r and r + 1.
    ends += np.arange(len(ends))[:, np.newaxis]
    found = np.searchsorted(ends.ravel(), row + generator.random(len(row)), side="right")
    return left[np.minimum(found - row * len(left), len(left) - 1)]


def _shares(weights: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw from a Dirichlet distribution, up to a common factor: the largest share is 1."""
    logarithms = _log_shares(weights, generator)
    shares: NDArray[np.float64] = np.exp(logarithms - logarithms.max())
    return shares


def _log_shares(
    weights: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the logarithms of shares from Dirichlet distributions, up to a common summand.

    The shares are gamma variates. These are drawn as logarithms, by ``G(a) = G(a + 1) U^(1/a)``,
    because for a small weight most of them, and sometimes all, are less than the smallest float.

    Args:
        weights: The parameters of the distribution, positive, shape ``(..., n)``.
        generator: Draws.
    """
    weights = np.maximum(weights, _SMALLEST_ALPHA)
    logarithms: NDArray[np.float64] = np.log(generator.standard_gamma(weights + 1))
    logarithms -= generator.standard_exponential(weights.shape) / weights
    return logarithms
