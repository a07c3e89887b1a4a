"""The batches of K clients, step by step, in the order in which the loop would take them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.job import Phase

_NUMBERS = 1 << 20
"""How many numbers of inputs are copied at once, so that they stay in a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the clients that still train, which are the first A.

    Attributes:
        inputs: Shape ``(A, B, ...)``; a smaller batch is filled up with copies of its last row.
        targets: Shape ``(A, B, ...)``, likewise.
        sizes: How many examples each client's batch has, without what fills it up.
    """

    inputs: Tensor
    targets: Tensor
    sizes: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class _Course:
    """A client's way through a phase; the same for all clients with as many examples.

    Attributes:
        sizes: The size of each step's batch.
        epochs: How many epochs these take, the last one perhaps in part.
        shuffles: Whether each epoch has a new order.
        places: Where in the epochs' orders, one after another, each row of each step lies, shape
            ``(steps * B,)``; None if they are all taken as they come.
    """

    sizes: Sequence[int]
    epochs: int
    shuffles: bool
    places: Tensor | None

    def rows(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the examples that each row of each step is, shape ``(steps * B,)``."""
        if not self.sizes:
            return torch.arange(0)
        if self.shuffles:
            orders = [torch.randperm(count, generator=generator) for _ in range(self.epochs)]
            order = orders[0] if len(orders) == 1 else torch.cat(orders)
        else:
            order = torch.arange(count).repeat(self.epochs)
        if self.places is None:
            return order[: sum(self.sizes)]
        return order.index_select(0, self.places)


class Feed:
    """The batches of one phase. Memory follows the clients and the batches, not the steps."""

    def __init__(
        self,
        examples: Sequence[Examples],
        phase: Phase,
        generators: Sequence[torch.Generator],
        smallest: int,
    ) -> None:
        """Draw the order of all examples.

        Args:
            examples: Each client's, of one shape; those with more examples come first.
            phase: How many steps and of which size.
            generators: Each client's, advanced as the loop would.
            smallest: See `Phase.batch_sizes`.
        """
        self._examples = examples
        self._width = max(max(phase.batch_sizes(len(each), smallest)) for each in examples)
        courses = {
            count: _course(count, phase, smallest, self._width)
            for count in dict.fromkeys(len(each) for each in examples)
        }
        self._courses = [courses[len(each)] for each in examples]
        self._rows = [
            course.rows(len(each), generator).to(each.inputs.device)
            for course, each, generator in zip(self._courses, examples, generators, strict=True)
        ]

    @property
    def steps(self) -> list[int]:
        """How many steps each client takes."""
        return [len(course.sizes) for course in self._courses]

    def __iter__(self) -> Iterator[Step]:
        """Yield step after step. What is yielded is overwritten later."""
        steps = self.steps
        inputs, targets = self._examples[0].inputs, self._examples[0].targets
        numbers = len(steps) * self._width * max(1, inputs[:1].numel())
        stretch = max(1, min(_NUMBERS // numbers, steps[0]))
        lead = (len(steps), stretch * self._width)
        held_inputs = inputs.new_empty((*lead, *inputs.shape[1:]))
        held_targets = targets.new_empty((*lead, *targets.shape[1:]))
        for first in range(0, steps[0], stretch):
            self._copy(first, stretch, held_inputs, held_targets)
            for step in range(first, min(first + stretch, steps[0])):
                active = sum(count > step for count in steps)
                sizes = [course.sizes[step] for course in self._courses[:active]]
                start = (step - first) * self._width
                yield Step(
                    inputs=held_inputs[:active, start : start + max(sizes)],
                    targets=held_targets[:active, start : start + max(sizes)],
                    sizes=sizes,
                )

    def _copy(self, first: int, stretch: int, inputs: Tensor, targets: Tensor) -> None:
        """Copy the rows of some steps of all clients that take them."""
        begin, end = first * self._width, (first + stretch) * self._width
        for place, (examples, rows) in enumerate(zip(self._examples, self._rows, strict=True)):
            chosen = rows[begin:end]
            if not len(chosen):
                break
            count = len(chosen)
            torch.index_select(examples.inputs, 0, chosen, out=inputs[place, :count])
            torch.index_select(examples.targets, 0, chosen, out=targets[place, :count])


def _course(count: int, phase: Phase, smallest: int, width: int) -> _Course:
    epoch = phase.batch_sizes(count, smallest)
    steps = phase.step_count(count, smallest)
    epochs = -(-steps // len(epoch))
    sizes = (epoch * epochs)[:steps]
    shuffles = len(epoch) > 1
    if epoch[0] == epoch[-1] == width:
        return _Course(sizes=sizes, epochs=epochs, shuffles=shuffles, places=None)
    starts = torch.tensor(list(accumulate([0, *sizes]))[:-1], dtype=torch.int64)
    last = torch.tensor(sizes, dtype=torch.int64) - 1
    within = torch.minimum(torch.arange(width), last.unsqueeze(1))
    places = (starts.unsqueeze(1) + within).flatten()
    return _Course(sizes=sizes, epochs=epochs, shuffles=shuffles, places=places)
