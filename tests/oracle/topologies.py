"""Cases of this family."""

from typing import Any

from tests.oracle.cases import Case, UnknownCase


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
