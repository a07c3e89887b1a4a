"""Sums of floats that do not depend on order, grouping or the number of workers.

Float addition rounds, so its result depends on order. `ExactSum` rounds each *term* to a fixed grid
instead, after which every addition is exact. A term is split over two float64 bins:

    coarse = term rounded to a multiple of 2**-16
    fine   = (term - coarse) rounded to a multiple of 2**-50

Adding and subtracting ``1.5 * 2**52 * quantum`` does the rounding. A float64 holds every multiple
of a quantum up to ``2**53 * quantum``, so the sums are exact while

- each term is at most 2**35 in absolute value,
- the sum of the absolute values of the terms stays below 2**37,
- at most 2**20 terms are added.

The error of the whole sum is at most 2**-51 a term plus one final rounding. Terms out of range are
an error here; the admission gate refuses them earlier, at `term_limit`.

Sources: R. Demmel and H. D. Nguyen, "Parallel reproducible summation" (2015), for the binned sum;
T. J. Dekker (1971) for rounding by a large constant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roundel.core.errors import ParameterError
from roundel.core.rows import magnitudes

MAX_TERMS = 1 << 20
MAX_TERM = 2.0**35
MAX_SUM = 2.0**37

# As tensors, with which torch computes sooner than with numbers.
_COARSE = torch.tensor(1.5 * 2.0**52 * 2.0**-16, dtype=torch.float64)
_FINE = torch.tensor(1.5 * 2.0**52 * 2.0**-50, dtype=torch.float64)
_TILE = 1 << 15  # float64 tiles of 256 kB: two bins, a term and a temporary stay in the L2 cache
_TERMS = 1 << 16  # what is added at once of shorter rows, of which several make a tile


def term_limit(terms: int) -> float:
    """Return the largest absolute value that each of `terms` terms may have.

    It depends on the number of terms that may come and not on the others' values, so whether an
    update is admitted does not depend on who came first.
    """
    if not 0 < terms <= MAX_TERMS:
        raise ParameterError(f"an exact sum takes 1 to {MAX_TERMS} terms, not {terms}")
    return min(MAX_TERM, MAX_SUM / 2 / terms)


@dataclass
class ExactSum:
    """A sum of weighted vectors; equal bit for bit in any order and grouping.

    Attributes:
        bins: Multiples of 2**-16 and multiples of 2**-50, float64, shape ``(2, D)``.
        terms: How many vectors it holds.
    """

    bins: Tensor
    terms: int = 0

    @classmethod
    def zero(cls, size: int) -> "ExactSum":
        """Return the empty sum of vectors of length `size`."""
        return cls(torch.zeros(2, size, dtype=torch.float64))

    @property
    def coarse(self) -> Tensor:
        """The multiples of 2**-16, shape ``(D,)``."""
        return self.bins[0]

    @property
    def fine(self) -> Tensor:
        """The multiples of 2**-50, shape ``(D,)``."""
        return self.bins[1]

    def add_(self, vector: Tensor, weight: float = 1.0) -> None:
        """Add ``weight * vector`` in place, or nothing at all.

        Args:
            vector: Shape ``(D,)``, any float dtype.
            weight: A finite number.

        Raises:
            ParameterError: The shape differs, or a term is out of the exact range or not finite.
        """
        self.check_shape(vector)
        self.add_rows_(vector.unsqueeze(0), [weight])

    def add_rows_(self, rows: Tensor, weights: Sequence[float]) -> None:
        """Add each row with its weight in place, or nothing at all.

        Many short vectors at once take a fraction of the time of one after another.

        Args:
            rows: Shape ``(K, D)``, any float dtype.
            weights: K finite numbers.

        Raises:
            ParameterError: As for `add_`.
        """
        if not len(rows):
            return
        self.check_shape(rows[0])
        _check_range(v * abs(w) for v, w in zip(magnitudes(rows), weights, strict=True))
        factors = self.bins.new_tensor(weights).unsqueeze(1)
        for piece, coarse, fine in zip(
            rows.split(_TILE, dim=1), self.coarse.split(_TILE), self.fine.split(_TILE), strict=True
        ):
            together = max(1, _TERMS // max(1, len(coarse)))
            for some, factor in zip(piece.split(together), factors.split(together), strict=True):
                multiples, rests = _split(some.to(torch.float64, copy=True).mul_(factor))
                coarse.add_(_summed(multiples))
                fine.add_(_summed(rests))
        self.terms += len(rows)

    def check_shape(self, vector: Tensor) -> None:
        """Refuse a vector that cannot be added.

        Raises:
            ParameterError: Its shape is another one.
        """
        if vector.shape != self.coarse.shape:
            raise ParameterError(
                f"a vector of shape {tuple(vector.shape)} cannot be added to a sum of shape "
                f"{tuple(self.coarse.shape)}"
            )

    def __add__(self, other: "ExactSum") -> "ExactSum":
        """Merge two sums; exact, hence commutative and associative.

        Raises:
            ParameterError: The shapes differ.
        """
        if self.bins.shape != other.bins.shape:
            raise ParameterError(
                f"sums of shapes {tuple(self.coarse.shape)} and {tuple(other.coarse.shape)} cannot "
                "be merged"
            )
        return ExactSum(self.bins + other.bins, self.terms + other.terms)

    def total(self, divisor: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the sum, rounded to float64, divided by `divisor` and rounded to `dtype`.

        Raises:
            ParameterError: More terms or larger sums than stay exact.
        """
        if self.terms > MAX_TERMS:
            raise ParameterError(
                f"a sum of {self.terms} terms is not exact; at most {MAX_TERMS} are"
            )
        out = torch.empty(self.coarse.shape, dtype=dtype)
        for place, coarse, fine in zip(
            out.split(_TILE), self.coarse.split(_TILE), self.fine.split(_TILE), strict=True
        ):
            summed = coarse + fine
            if summed.numel() and not float(summed.abs().max()) < MAX_SUM:
                raise ParameterError(f"a sum reached {MAX_SUM:.3g}, where it is no longer exact")
            place.copy_(summed.div_(divisor))
        return out


def _check_range(largest: Iterable[float]) -> None:
    for value in largest:
        if not value <= MAX_TERM:
            raise ParameterError(
                f"a term of {value:.3g} is outside the exact range of {MAX_TERM:.3g}"
            )


def _split(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Return what goes to the two bins, the second in the place of the terms."""
    multiples = (terms + _COARSE).sub_(_COARSE)
    return multiples, terms.sub_(multiples).add_(_FINE).sub_(_FINE)


def _summed(rows: Tensor) -> Tensor:
    return rows[0] if len(rows) == 1 else rows.sum(dim=0)
