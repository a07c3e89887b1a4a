"""Sums of floats that do not depend on order, grouping or the number of workers.

Float addition rounds, so its result depends on order. `ExactSum` rounds each *term* to a multiple
of 2**-50 instead, after which every addition is exact: int64 counts the multiples, up to 2**13.
Before the count may exceed that, whole multiples of 2**-16 are carried over to float64, which holds
each of them up to 2**37. So the sums are exact while

- each term is at most 2**35 in absolute value,
- the sum of the absolute values of the terms stays below 2**37,
- at most 2**20 terms are added.

The error of the whole sum is at most 2**-51 a term plus one final rounding. Terms out of range are
an error here; the admission gate refuses them earlier, at `term_limit`.

Sources: R. Demmel and H. D. Nguyen, "Parallel reproducible summation" (2015), for the binned sum;
T. J. Dekker (1971) for rounding by a large constant.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roundel.core.errors import ParameterError
from roundel.core.ranks import Ranks
from roundel.core.recycling import empty, zeros
from roundel.core.rows import magnitudes
from roundel.core.threads import available_cores

MAX_TERMS = 1 << 20
MAX_TERM = 2.0**35
MAX_SUM = 2.0**37

_REACH = 2.0**12  # half of what int64 holds of multiples of 2**-50
_QUANTUM = 2.0**-16
_BITS = 34  # a quantum is 2**34 multiples of 2**-50

# As tensors, with which torch computes sooner than with numbers.
_COARSE = torch.tensor(1.5 * 2.0**52 * _QUANTUM, dtype=torch.float64)
_PER_ONE = torch.tensor(2.0**50, dtype=torch.float64)
_TILE = 1 << 18  # so many numbers are added at once: pieces of long rows, or several short ones
_LONG = 16 * _TILE  # a thread has at least so much to do
_THREADS = min(4, available_cores())


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
        fine: In multiples of 2**-50, int64, shape ``(D,)``.
        coarse: Multiples of 2**-16 to add to it, float64, shape ``(D,)``; None while all of the sum
            is in `fine`.
        reach: What no number in `fine` exceeds.
        terms: How many vectors it holds.
    """

    fine: Tensor
    coarse: Tensor | None = None
    reach: float = 0.0
    terms: int = 0

    @classmethod
    def zero(cls, size: int) -> "ExactSum":
        """Return the empty sum of vectors of length `size`."""
        return cls(zeros(size, torch.int64))

    @property
    def bins(self) -> Sequence[Tensor]:
        """Return those that there are, `fine` first."""
        return [self.fine] if self.coarse is None else [self.fine, self.coarse]

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
        largest = [v * abs(w) for v, w in zip(magnitudes(rows), weights, strict=True)]
        _check_range(largest)
        self._add_rows_(rows, weights, largest)
        self.terms += len(rows)

    def _add_rows_(self, rows: Tensor, weights: Sequence[float], largest: Sequence[float]) -> None:
        """Add rows whose terms reach up to `largest`."""
        reach, half = sum(largest), len(rows) // 2
        if reach >= _REACH and half:
            self._add_rows_(rows[:half], weights[:half], largest[:half])
            self._add_rows_(rows[half:], weights[half:], largest[half:])
            return
        if self.reach + reach >= _REACH:
            self.carry_()
        # A row that reaches further than `fine` alone leaves less than a quantum there.
        bins, left = (self.bins, _QUANTUM) if reach >= _REACH else ([self.fine], reach)
        factors = torch.tensor(weights, dtype=torch.float64).unsqueeze(1)
        _in_stretches(
            rows.shape[1], lambda part: _add_rows(_each(bins, part), rows[:, part], factors)
        )
        self.reach += left

    @property
    def extent(self) -> float:
        """How far it may reach; infinite if it needs more than `fine`."""
        return self.reach if self.coarse is None else math.inf

    def carry_(self) -> None:
        """Move what is coarse from `fine` to `coarse`; the sum stays the same."""
        fine = self.fine
        coarse = zeros(len(fine), torch.float64) if self.coarse is None else self.coarse
        _in_stretches(len(fine), lambda part: _carry(fine[part], coarse[part]))
        self.coarse, self.reach = coarse, _QUANTUM

    def reduce_(self, ranks: Ranks, extents: Sequence[float]) -> None:
        """Make it the sum of all ranks', but for the number of terms.

        Args:
            ranks: All of them do this now.
            extents: Of all their sums.
        """
        if sum(extents) >= _REACH:
            self.carry_()
        for each in self.bins:
            ranks.add_up_(each)
        self.reach = sum(extents) if self.coarse is None else len(extents) * _QUANTUM

    def check_shape(self, vector: Tensor) -> None:
        """Refuse a vector that cannot be added.

        Raises:
            ParameterError: Its shape is another one.
        """
        if vector.shape != self.fine.shape:
            raise ParameterError(
                f"a vector of shape {tuple(vector.shape)} cannot be added to a sum of shape "
                f"{tuple(self.fine.shape)}"
            )

    def __add__(self, other: "ExactSum") -> "ExactSum":
        """Merge two sums; exact, hence commutative and associative.

        Raises:
            ParameterError: The shapes differ.
        """
        if self.fine.shape != other.fine.shape:
            raise ParameterError(
                f"sums of shapes {tuple(self.fine.shape)} and {tuple(other.fine.shape)} cannot "
                "be merged"
            )
        both = [self, other]
        if self.extent + other.extent >= _REACH:
            both = [deepcopy(each) for each in both]
            for each in both:
                each.carry_()
        one, two = both
        fine, *further = map(torch.add, one.bins, two.bins)
        coarse = further[0] if further else None
        return ExactSum(fine, coarse, one.reach + two.reach, self.terms + other.terms)

    def total(self, divisor: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the sum, rounded to float64, divided by `divisor` and rounded to `dtype`.

        Raises:
            ParameterError: More terms or larger sums than stay exact.
        """
        if self.terms > MAX_TERMS:
            raise ParameterError(
                f"a sum of {self.terms} terms is not exact; at most {MAX_TERMS} are"
            )
        out = empty(len(self.fine), dtype)
        _in_stretches(
            len(out), lambda part: _write_total(out[part], _each(self.bins, part), divisor)
        )
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


def _add_rows(bins: Sequence[Tensor], rows: Tensor, factors: Tensor) -> None:
    """Add rows ``(K, D)`` with their factors ``(K, 1)`` to bins ``(D,)``, a tile at a time.

    With two bins terms are split, else they are all counted in the one.
    """
    fine, *further = bins
    together = max(1, _TILE // max(1, rows.shape[1]))
    scratch = torch.empty(2, min(_TILE, rows.numel()), dtype=torch.float64)
    counts = torch.empty(scratch.shape[1], dtype=torch.int64)
    for part in _tiles(rows.shape[1]):
        for some, factor in zip(
            rows[:, part].split(together), factors.split(together), strict=True
        ):
            terms, multiples = (each[: some.numel()].view(some.shape) for each in scratch)
            terms.copy_(some).mul_(factor)
            for coarse in further:
                torch.add(terms, _COARSE, out=multiples).sub_(_COARSE)
                terms.sub_(multiples)
                coarse[part].add_(_summed(multiples))
            whole = counts[: some.numel()].view(some.shape)
            whole.copy_(terms.mul_(_PER_ONE).round_())
            _add_counts_(fine[part], _summed(whole))


def _add_counts_(total: Tensor, counts: Tensor) -> None:
    """Add int64 in place, by numpy: torch multiplies by a factor of 1 first, in twice the time."""
    there = total.numpy()
    np.add(there, counts.numpy(), out=there)


def _carry(fine: Tensor, coarse: Tensor) -> None:
    """Move all multiples of 2**-16 from one bin, shape ``(D,)``, to the other."""
    for part in _tiles(len(fine)):
        carried = fine[part] >> _BITS
        coarse[part].add_(carried.double().mul_(_QUANTUM))
        fine[part].sub_(carried << _BITS)


def _write_total(out: Tensor, bins: Sequence[Tensor], divisor: float) -> None:
    """Write what bins ``(D,)`` make, divided, to `out`, shape ``(D,)``.

    Raises:
        ParameterError: It is not exact.
    """
    scratch = torch.empty(min(_TILE, len(out)), dtype=torch.float64)
    for part in _tiles(len(out)):
        fine, *further = _each(bins, part)
        summed = scratch[: len(fine)]
        if not further:
            summed.copy_(fine).div_(_PER_ONE)
        else:
            fine, coarse = fine.clone(), further[0].clone()
            _carry(fine, coarse)  # so that float64 holds each of them
            torch.add(coarse, fine.double().div_(_PER_ONE), out=summed)
            if not max(map(abs, map(float, summed.aminmax()))) < MAX_SUM:
                raise ParameterError(f"a sum reached {MAX_SUM:.3g}, where it is no longer exact")
        out[part].copy_(summed.div_(divisor))


def _each(bins: Sequence[Tensor], part: slice) -> Sequence[Tensor]:
    return [each[part] for each in bins]


def _tiles(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _TILE, size)) for start in range(0, size, _TILE))


def _check_range(largest: Iterable[float]) -> None:
    for value in largest:
        if not value <= MAX_TERM:
            raise ParameterError(
                f"a term of {value:.3g} is outside the exact range of {MAX_TERM:.3g}"
            )


def _summed(rows: Tensor) -> Tensor:
    return rows[0] if len(rows) == 1 else rows.sum(dim=0)
