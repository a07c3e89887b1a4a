"""Runs oracle cases through the public API, each by the family of algorithms that knows it."""

from typing import Any

from tests.oracle import (
    adapters,
    attacks,
    communication,
    drift,
    personal,
    privacy,
    robust,
    rounds,
    topologies,
)
from tests.oracle.cases import Case, UnknownCase

FAMILIES = (
    rounds,
    drift,
    robust,
    personal,
    communication,
    privacy,
    adapters,
    attacks,
    topologies,
)


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case, under the names that cases use.

    Raises:
        UnknownCase: No family knows the algorithm, its convention or an input.
    """
    reasons = []
    for family in FAMILIES:
        try:
            return family.run(case)
        except UnknownCase as unknown:
            reasons.append(str(unknown))
    raise UnknownCase("; ".join(dict.fromkeys(reasons)))
