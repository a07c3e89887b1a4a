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
        width: B, how many rows each step has.
        epoch: How many steps an epoch has; the last one may be cut short.
        places: Where in an epoch's order each row of each of its steps lies, shape
            ``(epoch * B,)``; None if they are all taken as they come.
    """

    sizes: Sequence[int]
    width: int
    epoch: int
    places: Tensor | None

    def draw(self, epochs: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the examples that the rows of some epochs are, shape ``(epochs * epoch * B,)``."""
        if self.epoch > 1:
            orders = [torch.randperm(count, generator=generator) for _ in range(epochs)]
        else:
            orders = [torch.arange(count)] * epochs
        order = orders[0] if epochs == 1 else torch.cat(orders)
        if self.places is None:
            return order
        if epochs == 1:
            return order.index_select(0, self.places)
        return order.view(epochs, count).index_select(1, self.places).flatten()


class _Rows:
    """Which examples a client's steps take, drawn when they are needed."""

    def __init__(self, course: _Course, examples: Examples, generator: torch.Generator) -> None:
        self._course = course
        self._count = len(examples)
        self._generator = generator
        self._device = examples.inputs.device
        self._held = _NONE
        self._left = len(course.sizes) * course.width

    def take(self, wanted: int) -> Tensor:
        """Return the next rows; fewer at the end."""
        wanted = min(wanted, self._left)
        self._left -= wanted
        held = self._enough(wanted)
        if wanted == held.shape[0]:
            self._held = _NONE
            return held
        self._held = held[wanted:]
        return held[:wanted]

    def _enough(self, wanted: int) -> Tensor:
        """Return at least so many rows: those that are held, and whole epochs."""
        course, held = self._course, self._held
        missing = wanted - held.shape[0]
        if missing <= 0:
            return held
        epochs = -(-missing // (course.epoch * course.width))
        drawn = course.draw(epochs, self._count, self._generator).to(self._device)
        return torch.cat([held, drawn]) if held.shape[0] else drawn


_NONE = torch.empty(0, dtype=torch.int64)


class Feed:
    """The batches of one phase, to go through once.

    Memory follows the clients, their examples and the batches, not the steps.
    """

    def __init__(
        self,
        examples: Sequence[Examples],
        phase: Phase,
        generators: Sequence[torch.Generator],
        smallest: int,
    ) -> None:
        """Prepare it.

        Args:
            examples: Each client's, of one shape; those with more examples come first.
            phase: How many steps and of which size.
            generators: Each client's, advanced on the way as the loop would.
            smallest: See `Phase.batch_sizes`.
        """
        self._examples = examples
        counts = [len(each) for each in examples]
        self._width = max(max(phase.batch_sizes(count, smallest)) for count in set(counts))
        courses = {count: _course(count, phase, smallest, self._width) for count in set(counts)}
        self._courses = [courses[count] for count in counts]
        self._rows = list(map(_Rows, self._courses, examples, generators))

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
            self._copy(stretch * self._width, held_inputs, held_targets)
            for step in range(first, min(first + stretch, steps[0])):
                active = sum(count > step for count in steps)
                sizes = [course.sizes[step] for course in self._courses[:active]]
                start = (step - first) * self._width
                yield Step(
                    inputs=held_inputs[:active, start : start + max(sizes)],
                    targets=held_targets[:active, start : start + max(sizes)],
                    sizes=sizes,
                )

    def _copy(self, wanted: int, inputs: Tensor, targets: Tensor) -> None:
        """Copy the next rows of all clients that still have some."""
        rooms = zip(inputs.unbind(), targets.unbind(), strict=True)
        for examples, rows, room in zip(self._examples, self._rows, rooms, strict=True):
            chosen = rows.take(wanted)
            count = chosen.shape[0]
            if not count:
                break
            inputs, targets = room if count == wanted else (part[:count] for part in room)
            torch.index_select(examples.inputs, 0, chosen, out=inputs)
            torch.index_select(examples.targets, 0, chosen, out=targets)


def _course(count: int, phase: Phase, smallest: int, width: int) -> _Course:
    epoch = phase.batch_sizes(count, smallest)
    steps = phase.step_count(count, smallest)
    sizes = (epoch * -(-steps // len(epoch)))[:steps]
    places = None if epoch[0] == epoch[-1] == width else _places(epoch, width)
    return _Course(sizes=sizes, width=width, epoch=len(epoch), places=places)


def _places(epoch: Sequence[int], width: int) -> Tensor:
    """Return where in an epoch's order its steps' rows lie, each filled up with its last one."""
    starts = torch.tensor(list(accumulate([0, *epoch]))[:-1], dtype=torch.int64)
    last = torch.tensor(epoch, dtype=torch.int64) - 1
    within = torch.minimum(torch.arange(width), last.unsqueeze(1))
    return (starts.unsqueeze(1) + within).flatten()
