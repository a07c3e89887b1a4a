"""How a pool of examples is divided over clients.

Every division here is a pure function of the labels and a seed, and a partition: each example is at
exactly one client. The work is done on whole arrays, so that a hundred thousand clients take less
than a second.
"""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.config import PartitionConfig
from roundel.core.errors import DataError
from roundel.core.seeds import derive

Integers = NDArray[np.int64]

MAX_CLASSES = 1 << 20
"""A label as large as this is taken for something else than a class number."""

_SMALLEST_ALPHA = 1e-300
"""Below it the logarithm of a share would leave float64; long before, one client has all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """Which examples are at which client, as one permutation cut into pieces.

    Attributes:
        order: The row numbers of all examples, client after client and ascending within a client,
            shape ``(examples,)``.
        offsets: Where each client's piece of `order` starts, and the end, shape ``(clients + 1,)``.
    """

    order: Integers
    offsets: Integers

    @classmethod
    def of(cls, owner: Integers, clients: int) -> "Partition":
        """Make the partition in which row ``i`` is at client ``owner[i]``.

        Args:
            owner: Client numbers in ``range(clients)``, shape ``(examples,)``.
            clients: How many clients there are.
        """
        sizes = np.bincount(owner, minlength=clients)
        return cls(order=_grouped(owner), offsets=_offsets(sizes))

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.offsets) - 1

    @property
    def examples(self) -> int:
        """How many examples there are, at all clients together."""
        return len(self.order)

    @property
    def sizes(self) -> Integers:
        """How many examples each client has, shape ``(clients,)``."""
        return np.diff(self.offsets)

    def rows(self, client: int) -> Integers:
        """Return the row numbers of one client's examples, ascending, without copying.

        Raises:
            DataError: There is no such client.
        """
        if not 0 <= client < self.clients:
            raise DataError(
                f"there is no client {client}: the partition has {self.clients}, numbered from 0"
            )
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    @cached_property
    def sha256(self) -> str:
        """A hash of the assignment: equal exactly if every example is at the same client."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.order.astype("<i8").tobytes())
        return digest.hexdigest()

    def label_histograms(self, labels: Tensor) -> Integers:
        """Count each client's examples of each class.

        Args:
            labels: The class number of every example of the pool, shape ``(examples,)``.

        Returns:
            Shape ``(clients, classes)``, where `classes` is the largest class number plus one.

        Raises:
            DataError: The labels are not class numbers.
        """
        numbers = class_numbers(labels)
        classes = int(numbers.max(initial=-1)) + 1
        client = np.repeat(np.arange(self.clients), self.sizes)
        cells = np.bincount(
            client * classes + numbers[self.order], minlength=self.clients * classes
        )
        return cells.reshape(self.clients, classes)


def make_partition(config: PartitionConfig, labels: Tensor, seed: int) -> Partition:
    """Divide a pool as an experiment says.

    Args:
        config: The kind of division and its parameters.
        labels: The targets of the pool, shape ``(examples, ...)``; class numbers if the kind
            depends on them.
        seed: The experiment's data seed.

    Raises:
        DataError: There are too few examples, or the labels are not class numbers.
    """
    _check_enough(len(labels), config.clients, config.min_examples)
    if config.kind == "iid":
        return iid(labels, config.clients, seed)
    return dirichlet(labels, config.clients, config.alpha, config.min_examples, seed)


def iid(labels: Tensor, clients: int, seed: int) -> Partition:
    """Deal the examples out at random; sizes differ by one at most.

    Args:
        labels: The targets of the pool, shape ``(examples, ...)``; only their number counts.
        clients: How many clients there are. With more of them than examples some get none.
        seed: The experiment's data seed.
    """
    count = len(labels)
    owner = np.empty(count, dtype=np.int64)
    owner[_generator(seed).permutation(count)] = np.arange(count) % clients
    return Partition.of(owner, clients)


def dirichlet(
    labels: Tensor, clients: int, alpha: float, min_examples: int, seed: int
) -> Partition:
    """Divide each class over the clients in proportions drawn from a Dirichlet distribution.

    For every class c the shares of the clients are drawn, ``p_c ~ Dir(alpha, ..., alpha)`` over
    clients, and client k gets the fraction ``p_ck`` of the examples of that class. Both the mix of
    classes and the number of examples therefore differ between clients. This is the kind of
    Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks" (ICML 2019,
    arXiv:1905.12022), which Li et al., "Federated Learning on Non-IID Data Silos" (ICDE 2022,
    arXiv:2102.02079), made common. It is *not* that of Hsu et al. (arXiv:1909.06335), who draw a
    mix of classes for each client and give all the same number of examples: at the same alpha the
    two are different distributions.

    It departs from the code that goes with those papers in three points:

    * That code gives nothing more to a client that already has its even share; the papers do not
      mention it, and it is not done here.
    * Fractions of examples are rounded with one random offset a class, not always down, so that a
      client's expected number is exact and does not depend on its place in the order.
    * That code draws again until every client has enough. Here one draw is made, and then the
      clients below the minimum are filled up: again and again the client that is the largest (of
      several, the one with the lowest number) gives one of its examples, chosen at random,
      see `fill_up`. With a minimum of 0 the draw stays as it is.

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
    _check_enough(len(numbers), clients, min_examples)
    generator = _generator(seed)
    shuffled = generator.permutation(len(numbers))
    by_class = shuffled[_grouped(numbers[shuffled])]
    counts = np.bincount(numbers)
    owners = [
        np.repeat(np.arange(clients), _portions(int(count), clients, alpha, generator))
        for count in counts[counts > 0]
    ]
    owner = np.empty(len(numbers), dtype=np.int64)
    owner[by_class] = np.concatenate([np.empty(0, dtype=np.int64), *owners])
    return Partition.of(_with_minimum(owner, clients, min_examples, generator), clients)


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


def class_numbers(labels: Tensor) -> Integers:
    """Return labels as an array, if they are class numbers.

    Args:
        labels: Integers, shape ``(examples,)``.

    Raises:
        DataError: They have a fractional dtype or another shape, or are out of range.
    """
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"targets of dtype {labels.dtype} and shape {tuple(labels.shape)} are not class "
            "numbers, one integer an example; partition.kind = 'iid' needs none"
        )
    numbers: Integers = labels.numpy(force=True).astype(np.int64)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= MAX_CLASSES))
    if len(wrong) > 0:
        raise DataError(
            f"example {wrong[0]} has the label {numbers[wrong[0]]}, which is not a class number; "
            "number the classes from 0 without large gaps"
        )
    return numbers


def _check_enough(examples: int, clients: int, min_examples: int) -> None:
    if clients * min_examples > examples:
        raise DataError(
            f"partition.clients = {clients} with partition.min_examples = {min_examples} need "
            f"{clients * min_examples} examples and the pool has {examples}; lower one of the two"
        )


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive(seed, "partition")))


def _grouped(keys: Integers) -> Integers:
    """Return the places of `keys` in ascending order of key, then of place.

    This is a stable argsort. Sorting distinct numbers made of key and place is several times as
    fast.
    """
    count = max(len(keys), 1)
    order: Integers = np.sort(keys * count + np.arange(len(keys))) % count
    return order


def _offsets(sizes: Integers) -> Integers:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _portions(count: int, clients: int, alpha: float, generator: np.random.Generator) -> Integers:
    """Divide the examples of one class: draw the shares, round them to whole examples.

    Returns:
        Shape ``(clients,)``; the sum is `count`, and each is its share times `count`, rounded up or
        down with that as the expected value.
    """
    ends = np.cumsum(_shares(clients, alpha, generator))
    cuts = np.floor(ends / ends[-1] * count + generator.random()).astype(np.int64)
    cuts[-1] = count
    portions: Integers = np.diff(np.minimum(cuts, count), prepend=0)
    return portions


def _shares(clients: int, alpha: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw from a symmetric Dirichlet distribution, up to a common factor, for any alpha.

    The shares are gamma variates. These are drawn as logarithms, by ``G(a) = G(a + 1) U^(1/a)``,
    because for a small alpha most of them, and sometimes all, are less than the smallest float.
    """
    alpha = max(alpha, _SMALLEST_ALPHA)
    logarithms = np.log(generator.standard_gamma(alpha + 1, clients))
    logarithms -= generator.standard_exponential(clients) / alpha
    shares: NDArray[np.float64] = np.exp(logarithms - logarithms.max())
    return shares


def _with_minimum(
    owner: Integers, clients: int, minimum: int, generator: np.random.Generator
) -> Integers:
    """Return an assignment in which every client has the minimum; see `dirichlet`."""
    sizes = np.bincount(owner, minlength=clients)
    if sizes.min() >= minimum:
        return owner
    wanted = fill_up(sizes, minimum)
    shuffled = generator.permutation(len(owner))
    by_client = shuffled[_grouped(owner[shuffled])]
    place_at_client = np.arange(len(owner)) - np.repeat(_offsets(sizes)[:-1], sizes)
    given = by_client[place_at_client >= np.repeat(wanted, sizes)]
    filled = owner.copy()
    filled[given] = np.repeat(np.arange(clients), np.maximum(wanted - sizes, 0))
    return filled
