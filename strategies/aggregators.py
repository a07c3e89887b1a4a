"""How a channel's updates become one tensor."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import fsum

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.exact import ExactSum
from roundel.core.ranks import Ranks
from roundel.strategies.sites import Accumulator, Mixer, RoundContext, Rule


@dataclass(frozen=True)
class Mean:
    """The (weighted) mean, exact and independent of order: ``sum(w_k x_k) / sum(w_k)``.

    Attributes:
        weighted: Whether to use the strategy's aggregation weights; every client counts 1
            otherwise.
        by_arrivals: Whether to divide by the weights that arrived even where the strategy divides
            by a fixed number.
    """

    weighted: bool = True
    by_arrivals: bool = False
    traits: frozenset[str] = frozenset({"sum"})

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator."""
        return _MeanAccumulator(self, dtype, ExactSum.zero(size))


@dataclass
class _MeanAccumulator:
    """Adds up.

    Attributes:
        mean: Says how.
        dtype: That of the mean.
        total: The sum so far.
        weights: Of all that are in it.
    """

    mean: Mean
    dtype: torch.dtype
    total: ExactSum
    weights: list[float] = field(default_factory=list[float])

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.total.check_shape(value)
        self.add_rows(value.unsqueeze(0), [weight])

    def add_rows(self, rows: Tensor, weights: Sequence[float]) -> None:
        used = weights if self.mean.weighted else [1.0] * len(weights)
        self.total.add_rows_(rows, used)
        self.weights += used

    def merge(self, other: "_MeanAccumulator") -> None:
        self.total = self.total + other.total
        self.weights += other.weights

    def reduce(self, ranks: Ranks) -> None:
        said = gathered_numbers([self.total.extent, *self.weights], ranks)
        self.total.reduce_(ranks, [extent for extent, *_ in said])
        self.weights = [weight for _, *weights in said for weight in weights]
        self.total.terms = len(self.weights)

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        if denominator is None or self.mean.by_arrivals or not self.mean.weighted:
            denominator = fsum(self.weights) or 1.0  # of nobody: a mean that moves nothing
        return self.total.total(denominator, self.dtype)


@dataclass(frozen=True)
class Maximum:
    """The elementwise maximum, for counters."""

    traits: frozenset[str] = frozenset({"sum"})

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator."""
        return _MaximumAccumulator(torch.full((size,), torch.iinfo(dtype).min, dtype=dtype))


@dataclass
class _MaximumAccumulator:
    largest: Tensor

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.largest = torch.maximum(self.largest, value)

    def merge(self, other: "_MaximumAccumulator") -> None:
        self.largest = torch.maximum(self.largest, other.largest)

    def reduce(self, ranks: Ranks) -> None:
        self.largest = ranks.largest(self.largest)

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        return self.largest


@dataclass(frozen=True)
class LowerMedian:
    """The lower median of each element, exact: for counters, where a single client may lie."""

    traits: frozenset[str] = frozenset({"set"})

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator."""
        return _LowerMedianAccumulator(size, dtype)


@dataclass
class _LowerMedianAccumulator:
    size: int
    dtype: torch.dtype
    rows: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.rows.append(value)

    def merge(self, other: "_LowerMedianAccumulator") -> None:
        self.rows += other.rows

    def reduce(self, ranks: Ranks) -> None:
        self.rows = list(ranks.joined(_stacked(self.rows, self.size, self.dtype)))

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        if not self.rows:
            return torch.zeros(self.size, dtype=self.dtype)
        return torch.stack(self.rows).sort(dim=0).values[(len(self.rows) - 1) // 2]


@dataclass(frozen=True)
class OverRows:
    """A set-type aggregator: a rule over all updates of the round at once.

    Attributes:
        name: What to call it.
        rule: Sees the rows in the order of client numbers, whatever the order of arrival.
        traits: Set-type.
        check: Raises `CompositionError` for a number of rows that the rule cannot do with; None if
            that is not known before they are there.
    """

    name: str
    rule: Rule
    traits: frozenset[str] = frozenset({"set"})
    check: Callable[[int], object] | None = None

    def check_most(self, most: int) -> None:
        """Refuse a round that the rule cannot do with, however many of its updates arrive.

        Args:
            most: How many may arrive.

        Raises:
            CompositionError: What the rule says to the most.
        """
        if self.check is not None:
            self.check(self.least(most))

    def least(self, most: int) -> int:
        """Return with how few updates the rule can work, of at most so many; `most` if with none.

        Args:
            most: How many may arrive.
        """
        if self.check is None:
            return 0
        for rows in range(1, most):  # with a fraction, one row more may be too few again
            try:
                self.check(rows)
            except CompositionError:
                continue
            return rows
        return most

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator."""
        return _RowsAccumulator(self.rule, size, dtype)


@dataclass(frozen=True)
class Rows:
    """A set-type aggregator that reduces nothing: a link of the server's chain takes all updates.

    The aggregate has shape ``(K, n)``, in the order of client numbers.

    Attributes:
        check: Raises `CompositionError` for a cohort of a size that the link cannot do with; None
            if it can do with any.
        traits: Set-type.
    """

    check: Callable[[int], object] | None = None
    traits: frozenset[str] = frozenset({"set"})

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator."""
        return _RowsAccumulator(None, size, dtype)


@dataclass
class _RowsAccumulator:
    """Keeps rows.

    Attributes:
        rule: What makes one of them; None to leave them as they are.
        size: Of a row.
        dtype: Of a row.
        rows: Client to its row and weight.
    """

    rule: Rule | None
    size: int
    dtype: torch.dtype
    rows: dict[int, tuple[Tensor, float]] = field(default_factory=dict[int, tuple[Tensor, float]])

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.rows[client_id] = (value, weight)

    def merge(self, other: "_RowsAccumulator") -> None:
        self.rows |= other.rows

    def reduce(self, ranks: Ranks) -> None:
        held = self.rows.values()
        rows = ranks.joined(_stacked([row for row, _ in held], self.size, self.dtype))
        weights = joined_numbers([weight for _, weight in held], ranks)
        clients = ranks.joined(torch.tensor(list(self.rows), dtype=torch.int64)).tolist()
        self.rows = dict(zip(clients, zip(rows, weights, strict=True), strict=True))

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        if self.rule is None:
            rows = [self.rows.pop(client_id)[0] for client_id in sorted(self.rows)]
            return _stacked(rows, self.size, self.dtype)
        if not self.rows:
            return torch.zeros(self.size, dtype=self.dtype)
        matrix = torch.empty(len(self.rows), self.size, dtype=torch.float64)
        weights = matrix.new_empty(len(self.rows))
        for row, client_id in enumerate(sorted(self.rows)):
            # Let go of at once: only the matrix remains, if the allocator gives memory back.
            matrix[row], weights[row] = self.rows.pop(client_id)
        return self.rule(matrix, weights, context).to(self.dtype)


def joined_numbers(own: Sequence[float], ranks: Ranks) -> list[float]:
    """Return the numbers of all ranks, those of rank 0 first."""
    return [number for numbers in gathered_numbers(own, ranks) for number in numbers]


def gathered_numbers(own: Sequence[float], ranks: Ranks) -> "list[array[float]]":
    """Return the numbers of each rank, those of rank 0 first."""
    return [array("d", said) for said in ranks.gathered(array("d", own).tobytes())]


def _stacked(rows: Sequence[Tensor], size: int, dtype: torch.dtype) -> Tensor:
    """Return rows as one tensor, shape ``(n, size)``, also if there are none."""
    return torch.stack(list(rows)) if rows else torch.empty(0, size, dtype=dtype)


def after_mixing(name: str, mixers: Sequence[Mixer], over: OverRows | None) -> OverRows:
    """Return the aggregator that mixes rows before a rule sees them; by default, before the mean.

    Args:
        name: What to call it.
        mixers: Run in this order.
        over: The rule over the mixed rows.
    """

    def rule(rows: Tensor, _weights: Tensor, context: RoundContext) -> Tensor:
        for mix in mixers:
            rows = mix(rows, context)
        if over is None:
            return rows.mean(dim=0)
        return over.rule(rows, torch.ones(len(rows), dtype=rows.dtype), context)

    return OverRows(name, rule)
