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

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
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
_TILE = 1 << 16  # so many numbers are added at once: pieces of long rows, or several short ones
_LONG = 64 * _TILE  # a thread has at least so much to do
_THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


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
        # Other than torch's, these zeros are not written until they are needed.
        return cls(torch.from_numpy(np.zeros((2, size))))

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
        _in_stretches(
            rows.shape[1], lambda part: _add_rows(self.bins[:, part], rows[:, part], factors)
        )
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
        _in_stretches(len(out), lambda part: _write_total(out[part], self.bins[:, part], divisor))
        return out


def _in_stretches(size: int, work: Callable[[slice], None]) -> None:
    """Do something to all of `size` numbers, a stretch at a time; with very many in threads.

    Nothing depends on how many there are, since sums are exact.
    """
    if size < 2 * _LONG:
        work(slice(0, size))
        return
    length = max(_LONG, -(-size // (_THREADS * _TILE)) * _TILE)
    stretches = [slice(start, start + length) for start in range(0, size, length)]
    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(work, stretches):
            pass


def _add_rows(bins: Tensor, rows: Tensor, factors: Tensor) -> None:
    """Add rows ``(K, D)`` with their factors ``(K, 1)`` to bins ``(2, D)``, a tile at a time."""
    together = max(1, _TILE // max(1, rows.shape[1]))
    scratch = bins.new_empty(2, min(_TILE, rows.numel()))
    for piece, (coarse, fine) in zip(
        rows.split(_TILE, dim=1), bins.split(_TILE, dim=1), strict=True
    ):
        for some, factor in zip(piece.split(together), factors.split(together), strict=True):
            terms, multiples = (each[: some.numel()].view(some.shape) for each in scratch)
            _split(terms.copy_(some).mul_(factor), multiples)
            coarse.add_(_summed(multiples))
            fine.add_(_summed(terms))


def _write_total(out: Tensor, bins: Tensor, divisor: float) -> None:
    """Write what bins ``(2, D)`` make, divided, to `out`, shape ``(D,)``.

    Raises:
        ParameterError: It is not exact.
    """
    scratch = bins.new_empty(min(_TILE, len(out)))
    for place, (coarse, fine) in zip(out.split(_TILE), bins.split(_TILE, dim=1), strict=True):
        summed = torch.add(coarse, fine, out=scratch[: len(place)])
        if len(place) and not max(map(abs, map(float, summed.aminmax()))) < MAX_SUM:
            raise ParameterError(f"a sum reached {MAX_SUM:.3g}, where it is no longer exact")
        place.copy_(summed.div_(divisor))


def _check_range(largest: Iterable[float]) -> None:
    for value in largest:
        if not value <= MAX_TERM:
            raise ParameterError(
                f"a term of {value:.3g} is outside the exact range of {MAX_TERM:.3g}"
            )


def _split(terms: Tensor, multiples: Tensor) -> None:
    """Write what goes to the coarse bin into `multiples`, the rest in the place of the terms."""
    torch.add(terms, _COARSE, out=multiples).sub_(_COARSE)
    terms.sub_(multiples).add_(_FINE).sub_(_FINE)


def _summed(rows: Tensor) -> Tensor:
    return rows[0] if len(rows) == 1 else rows.sum(dim=0)
