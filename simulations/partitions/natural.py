"""The division that the data itself has: one client for each user."""

import numpy as np
from torch import Tensor

from roundel.core.errors import DataError
from roundel.simulations.partitions.partition import Partition


def natural(users: Tensor | None, clients: int | None, min_examples: int) -> Partition:
    """Make a client of each user, in the order of their numbers.

    Args:
        users: Whose each example is, integers, shape ``(examples,)``; None if nobody knows.
        clients: How many clients are expected; None for as many as there are users.
        min_examples: The least that a client must have.

    Raises:
        DataError: Users are not known, not whole numbers, more or fewer than expected, or one of
            them has too few examples.
    """
    if users is None:
        raise DataError(
            "partition.kind = 'natural' needs to know whose each example is, and this task's data "
            "does not say (Examples.users is None); choose another kind"
        )
    if users.is_floating_point() or users.is_complex():
        raise DataError(
            f"users of dtype {users.dtype} are not user numbers; give one integer an example"
        )
    found, owner, counts = np.unique(
        users.numpy(force=True), return_inverse=True, return_counts=True
    )
    if clients not in (None, len(found)):
        raise DataError(
            f"partition.clients = {clients}, and the data has {len(found)} users, each a client; "
            "leave partition.clients out"
        )
    if counts.min(initial=min_examples) < min_examples:
        user = counts.argmin()
        raise DataError(
            f"user {found[user]} has {counts[user]} examples, less than partition.min_examples = "
            f"{min_examples}; lower it, or leave such users out of the data"
        )
    return Partition.of(owner.astype(np.int64), len(found), "natural")
