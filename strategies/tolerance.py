"""How many of a round's updates a robust rule guards against.

Who answers varies from round to round, so the number is settled once the updates are there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from roundel.core.errors import CompositionError


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """A number of updates that may be anything, or a fraction of those that arrive.

    Attributes:
        rule: The rule's name, for messages.
        f: How many; None for `fraction` of those that arrive, rounded down.
        fraction: Used where `f` is None.
        below: What the fraction must be less than.
        least: From f to how few updates the rule can do with.
        or_none: Whether a fraction may come to no client at all.
    """

    rule: str
    f: int | None
    fraction: float
    below: float = 0.5
    least: Callable[[int], int]
    or_none: bool = False

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            CompositionError: One is out of range.
        """
        if self.f is not None and self.f < 0:
            raise CompositionError(f"f = {self.f!r} must be a whole number of at least 0")
        if not 0 <= self.fraction < self.below:
            raise CompositionError(
                f"fraction = {self.fraction!r} must be at least 0 and below {self.below:g}, which "
                f"is all that {self.rule} can bear"
            )

    def __str__(self) -> str:
        """Return what was asked for."""
        return f"fraction={self.fraction:g}" if self.f is None else f"f={self.f}"

    def of(self, n: int) -> int:
        """Return f for n updates.

        Raises:
            CompositionError: The rule does not work with so few.
        """
        f = int(self.fraction * n) if self.f is None else self.f
        if self.f is None and f == 0 < self.fraction and not self.or_none:
            raise CompositionError(
                f"{self.rule} would guard against nobody: fraction = {self.fraction:g} of the {n} "
                "updates that arrived is less than one; set f, or raise fraction, cohort.size or "
                "cohort.quorum"
            )
        if n < self.least(f):
            raise CompositionError(
                f"{self.rule} with f = {f} needs at least {self.least(f)} updates, and {n} "
                "arrived; lower f or fraction, or raise cohort.size or cohort.quorum"
            )
        return f
