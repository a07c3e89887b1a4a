"""Aggregation weights."""

from typing import Literal

from roundel.core.messages import ClientUpdate
from roundel.strategies.server_optimizers import one_of
from roundel.strategies.sites import Weigher

Weights = Literal["examples", "uniform"]


def _examples(update: ClientUpdate) -> float:
    return float(update.num_examples)


def _one(_update: ClientUpdate) -> float:
    return 1.0


BY_EXAMPLES = Weigher(name="examples", weigh=_examples)
"""Proportional to the number of examples (McMahan et al. 2017)."""

EQUAL = Weigher(name="uniform", weigh=_one)
"""The same for every client."""


_NAMED = {"examples": BY_EXAMPLES, "uniform": EQUAL}


def weigher(weights: Weights | None) -> Weigher | None:
    """Return the weigher of that name; None leaves the choice to other parts.

    Raises:
        CompositionError: There is no weigher of that name.
    """
    if weights is None:
        return None
    one_of("weights", weights, list(_NAMED))
    return _NAMED[weights]
