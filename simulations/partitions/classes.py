"""Label skew by a number of classes a client: shards of sorted examples, and classes outright."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.errors import DataError
from roundel.simulations.partitions.labels import class_numbers
from roundel.simulations.partitions.partition import Integers, Partition, grouped
from roundel.simulations.partitions.sizes import check_enough, generator_of, portions


def shards(labels: Tensor, clients: int, each: int, min_examples: int, seed: int) -> Partition:
    """Sort the examples by label, cut them into equal shards, and deal these out at random.

    There are ``clients * each`` shards, whose sizes differ by one at most, and every client gets
    `each` of them. A shard that lies across the border of two classes holds both. This is the
    "pathological non-IID" division of McMahan et al., "Communication-Efficient Learning of Deep
    Networks from Decentralized Data" (AISTATS 2017, arXiv:1602.05629), section 3, which has two
    shards a client.

    Args:
        labels: The class number of every example, shape ``(examples,)``.
        clients: How many clients there are.
        each: Shards a client.
        min_examples: The least that a client gets; 0 allows clients without examples.
        seed: The experiment's data seed.

    Raises:
        DataError: There are too few examples for so many shards, or the labels are not class
            numbers.
    """
    numbers = class_numbers(labels)
    count, pieces = len(numbers), clients * each
    check_enough(count, clients, min_examples)
    if each * (count // pieces) < min_examples:
        raise DataError(
            f"partition.shards = {each} for {clients} clients cuts {count} examples into {pieces} "
            f"shards of {count // pieces} or one more, which may leave a client less than "
            f"partition.min_examples = {min_examples}; lower one of the three"
        )
    generator = generator_of(seed)
    shuffled = generator.permutation(count)
    by_class = shuffled[grouped(numbers[shuffled])]
    shard = np.arange(count) * pieces // max(count, 1)
    owner = np.empty(count, dtype=np.int64)
    owner[by_class] = (generator.permutation(pieces) // each)[shard]
    return Partition.of(owner, clients, "shards")


def classes(labels: Tensor, clients: int, each: int, min_examples: int, seed: int) -> Partition:
    """Give every client exactly so many classes, and an even share of each of them.

    Every client is given one class in turn and the others at random, so that there is no class
    without a client; each class is then divided evenly over the clients that have it. This is the
    division "#C = k" of Li et al., "Federated Learning on Non-IID Data Silos" (ICDE 2022,
    arXiv:2102.02079). With fewer clients than classes each is given several in turn;
    if there are more classes than all clients together can have, that is refused: nothing is left
    out in silence.

    A class with fewer examples than clients that have it leaves some of these without, so they see
    fewer classes.

    Args:
        labels: The class number of every example, shape ``(examples,)``.
        clients: How many clients there are.
        each: Classes a client.
        min_examples: The least that a client gets; 0 allows clients without examples.
        seed: The experiment's data seed.

    Raises:
        DataError: There are fewer classes than a client should have, or more than all clients
            together can have; there are too few examples; or the labels are not class numbers.
    """
    present, numbers, counts = np.unique(
        class_numbers(labels), return_inverse=True, return_counts=True
    )
    check_enough(len(numbers), clients, min_examples)
    if not each <= len(present) <= clients * each:
        raise DataError(
            f"{clients} clients of partition.classes = {each} cannot share the {len(present)} "
            f"classes of the pool: each has at most all of them, and together at least; "
            f"{'lower' if each > len(present) else 'raise'} partition.classes"
        )
    generator = generator_of(seed)
    has = _dealt(clients, len(present), each, generator)
    shuffled = generator.permutation(len(numbers))
    by_class = shuffled[grouped(numbers[shuffled])]
    owner = np.empty(len(numbers), dtype=np.int64)
    owner[by_class] = np.concatenate(
        [_evenly(np.flatnonzero(has[:, c]), int(n), generator) for c, n in enumerate(counts)]
    )
    partition = Partition.of(owner, clients, "classes")
    if partition.sizes.min() < min_examples:
        raise DataError(
            f"client {partition.sizes.argmin()} would get {partition.sizes.min()} examples, less "
            f"than partition.min_examples = {min_examples}, since a class has too few for all its "
            "clients; lower partition.clients, or partition.min_examples"
        )
    return partition


def _dealt(
    clients: int, classes: int, each: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose which client has which class, shape ``(clients, classes)``: `each` in every row."""
    luck = generator.random((clients, classes))
    turns = np.arange(max(clients, classes))
    luck[turns % clients, turns % classes] -= 1.0  # in turn comes before by luck
    chosen = np.argpartition(luck, each - 1, axis=1)[:, :each]
    has = np.zeros((clients, classes), dtype=np.bool_)
    np.put_along_axis(has, chosen, values=True, axis=1)
    return has[generator.permutation(clients)]


def _evenly(clients: Integers, count: int, generator: np.random.Generator) -> Integers:
    """Return the owners of the examples of one class: these clients, each as often or once more."""
    return np.repeat(clients, portions(np.ones(len(clients)), count, generator))
