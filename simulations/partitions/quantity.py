"""Divisions that do not look at labels: at random, with even sizes or skewed ones."""

import numpy as np
from numpy.typing import NDArray

from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.sizes import check_enough, fill_up, generator_of, portions

_STEEPEST = 1e300
"""Beyond it a product would leave float64; long before, one client has all."""


def iid(examples: int, clients: int, seed: int) -> Partition:
    """Deal the examples out at random; sizes differ by one at most.

    Args:
        examples: How many examples there are.
        clients: How many clients there are. With more of them than examples some get none.
        seed: The experiment's data seed.
    """
    owner = np.empty(examples, dtype=np.int64)
    owner[generator_of(seed).permutation(examples)] = np.arange(examples) % clients
    return Partition.of(owner, clients, "iid")


def lognormal(examples: int, clients: int, sigma: float, min_examples: int, seed: int) -> Partition:
    """Deal the examples out at random in sizes whose logarithm is normally distributed.

    The weight of client k is ``exp(sigma * z_k)`` with standard normal z, and its size is its
    share of all weights times the number of examples: quantity skew alone, as in Acar et al.,
    "Federated Learning Based on Dynamic Regularization" (ICLR 2021, arXiv:2111.04263). Clients
    below the minimum are filled up by the largest.

    Args:
        examples: How many examples there are.
        clients: How many clients there are.
        sigma: Standard deviation of the logarithm of the weights.
        min_examples: The least that a client gets; 0 allows clients without examples.
        seed: The experiment's data seed.

    Raises:
        DataError: There are too few examples.
    """
    generator = generator_of(seed)
    logarithms = min(sigma, _STEEPEST) * generator.standard_normal(clients)
    weights = np.exp(logarithms - logarithms.max())
    return _dealt(weights, examples, min_examples, generator, "lognormal")


def power_law(
    examples: int, clients: int, exponent: float, min_examples: int, seed: int
) -> Partition:
    """Deal the examples out at random in sizes that fall with a power of the client's rank.

    The client of rank r, counted from 1, has the weight ``r ** -exponent`` (Zipf's law for an
    exponent of 1), and its size is its share of all weights times the number of examples. Li et
    al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020, arXiv:1812.06127), give
    devices sizes that follow a power law. Ranks are dealt to client numbers at random. Clients
    below the minimum are filled up by the largest.

    Args:
        examples: How many examples there are.
        clients: How many clients there are.
        exponent: How fast sizes fall.
        min_examples: The least that a client gets; 0 allows clients without examples.
        seed: The experiment's data seed.

    Raises:
        DataError: There are too few examples.
    """
    generator = generator_of(seed)
    weights = np.exp(-min(exponent, _STEEPEST) * np.log1p(generator.permutation(clients)))
    return _dealt(weights, examples, min_examples, generator, "power-law")


def _dealt(
    weights: NDArray[np.float64],
    examples: int,
    min_examples: int,
    generator: np.random.Generator,
    kind: str,
) -> Partition:
    clients = len(weights)
    check_enough(examples, clients, min_examples)
    sizes = fill_up(portions(weights, examples, generator), min_examples)
    owner = np.empty(examples, dtype=np.int64)
    owner[generator.permutation(examples)] = np.repeat(np.arange(clients), sizes)
    return Partition.of(owner, clients, kind)
