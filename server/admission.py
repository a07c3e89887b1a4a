"""The one gate that every update passes before it touches an accumulator, all or nothing.

The round machine has already checked identity, round, attempt and duplicates; this gate checks what
the update holds. It never raises: what it refuses, it refuses with one sentence.

A client's figures on its own examples go into no sum but into the record: `evaluation_defect` is
their gate.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor

from roundel.core.exact import term_limit
from roundel.core.messages import INTEGERS, ClientUpdate, Evaluation
from roundel.core.metrics import Metrics
from roundel.core.params import ParamSpec
from roundel.core.printable import name_defect, printable
from roundel.core.rows import magnitudes, rows_of
from roundel.core.usercode import one_line
from roundel.strategies.compose import Strategy
from roundel.strategies.sites import Decoding

MAX_EXAMPLES = 1 << 40

MAX_TRAINED = MAX_EXAMPLES << 10
"""Examples that training may cover, repeats included."""

MAX_NAMES = 1000
"""Figures about its training that an update may have."""

MAX_GROWTH = 1 << 40
"""By how much a counter may grow at a client."""

_MAX_COUNTER = 1 << 62

_ROOM = 1000
"""Characters of a sentence that a client's names may fill."""

_COUNT = re.compile(r"confusion/\d{1,2}/\d{1,2}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What an update of one round must look like.

    Attributes:
        strategy: Says which channels there are, and decodes and weighs updates.
        spec: Says how long they are.
        base_version: The version that the cohort was sent.
        selected: How many updates may come; bounds each so that their sum stays exact.
        broadcast: What the cohort was sent besides the parameters.
        integers: The counters that the cohort was sent, which only grow; None if they are not
            known: then they are from 0 to 2**62.
    """

    strategy: Strategy
    spec: ParamSpec
    base_version: int
    selected: int
    broadcast: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    integers: Tensor | None = None

    def __call__(self, update: ClientUpdate) -> ClientUpdate | str:
        """Return the decoded update, or the reason why it is refused."""
        return self.judged([update])[0]

    def judged(self, updates: Sequence[ClientUpdate]) -> list[ClientUpdate | str]:
        """Return each update decoded, or the reason why it is refused, in their order.

        Each is judged by itself; only the largest number of each is looked for in all at once.
        """
        found = [self._decoded(update) for update in updates]
        decoded = [each for each in found if not isinstance(each, str)]
        largest = iter(self._largest(decoded))
        return [
            each if isinstance(each, str) else self._defect(each, next(largest)) or each
            for each in found
        ]

    @cached_property
    def _decoding(self) -> Decoding:
        return self.strategy.decoding(self.spec, self.broadcast)

    def _decoded(self, update: ClientUpdate) -> ClientUpdate | str:
        try:
            channels = self.strategy.decoded(update.channels, self._decoding)
        except Exception as error:  # noqa: BLE001 - a codec meets whatever a client sent
            return f"its channels cannot be decoded: {printable(one_line(error))}"
        return update if channels is update.channels else replace(update, channels=channels)

    def _largest(self, updates: Sequence[ClientUpdate]) -> list[dict[str, float]]:
        """Return the largest absolute value of each update's channels of floats that fit."""
        found: list[dict[str, float]] = [{} for _ in updates]
        for channel, kind in self._decoding.kinds.items():
            if not kind[1].is_floating_point:
                continue
            sent = [each.channels.get(channel) for each in updates]
            fit = {p: v for p, v in enumerate(sent) if v is not None and not _misfit(v, kind)}
            values = magnitudes(rows_of(list(fit.values()))) if fit else []
            for place, value in zip(fit, values, strict=True):
                found[place][channel] = value
        return found

    def _defect(self, update: ClientUpdate, largest: Mapping[str, float]) -> str | None:
        if defect := self._header_defect(update):
            return defect
        try:
            weight = self.strategy.weigher.weigh(update)
        except Exception as error:  # noqa: BLE001 - a weigher may ask for what was not sent
            return f"its aggregation weight cannot be computed: {printable(one_line(error))}"
        if not (isfinite(weight) and weight > 0):
            return f"its aggregation weight {weight} is not a finite number above 0"
        expected = self._decoding.kinds
        if update.channels.keys() != expected.keys():
            return f"it has the channels {listed(update.channels)}, not {listed(expected)}"
        for channel, kind in expected.items():
            defect = _misfit(update.channels[channel], kind)
            if defect is None and channel in largest:
                defect = self._size_defect(largest[channel], weight)
            if defect:
                return f"its channel {channel!r} {defect}"
        if INTEGERS in expected and (defect := self._counter_defect(update.channels[INTEGERS])):
            return f"its channel {INTEGERS!r} {defect}"
        return None

    def _counter_defect(self, counters: Tensor) -> str | None:
        """Say which counter went too far: the round takes the largest of all clients'."""
        if self.integers is None:
            least, most = torch.zeros_like(counters), torch.full_like(counters, _MAX_COUNTER)
        else:
            least = self.integers
            most = least.clamp(max=torch.iinfo(least.dtype).max - MAX_GROWTH) + MAX_GROWTH
        wrong = ((counters < least) | (counters > most)).nonzero().view(-1).tolist()
        if not wrong:
            return None
        place = wrong[0]
        return (
            f"holds the counter {int(counters[place])}, which is not between {int(least[place])} "
            f"and {int(most[place])}"
        )

    def _header_defect(self, update: ClientUpdate) -> str | None:
        if update.base_version != self.base_version:
            return f"it starts from version {update.base_version}, not {self.base_version}"
        if not 0 < update.num_examples <= MAX_EXAMPLES:
            return f"num_examples = {update.num_examples} is not between 1 and 2**40"
        if update.num_steps < 1:
            return f"num_steps = {update.num_steps} is less than 1"
        if not (isfinite(update.seconds) and update.seconds >= 0):
            return f"seconds = {update.seconds} is not a finite number of at least 0"
        numbers = update.scalars
        return _name_defect(numbers) or _not_finite(numbers) or _training_defect(update.metrics)

    def _size_defect(self, largest: float, weight: float) -> str | None:
        """Say the same of a channel's largest absolute value, which is NaN if any value is."""
        if not isfinite(largest):
            return "holds values that are not finite"
        limit = term_limit(self.selected)
        if largest * max(weight, 1.0) > limit:
            return (
                f"holds {largest:.3g}, which times its weight {weight:g} exceeds {limit:.3g}; "
                "the client has probably diverged"
            )
        return None


def _misfit(value: Tensor, kind: tuple[int, torch.dtype]) -> str | None:
    """Say why a channel's tensor has not the length and dtype that it must have."""
    size, dtype = kind
    if value.shape != (size,):
        return f"has the shape {tuple(value.shape)}, not ({size},)"
    return None if value.dtype == dtype else f"has the dtype {value.dtype}, not {dtype}"


def evaluation_defect(evaluation: Evaluation) -> str | None:
    """Say why a client's figures cannot be counted, or None if they can."""
    count = evaluation.metrics.count
    if not 0 <= count <= MAX_EXAMPLES:
        return f"it covers {count} examples, which is not between 0 and 2**40"
    return _figures_defect(evaluation.metrics)


def _training_defect(metrics: Metrics) -> str | None:
    """Say the same of what an update tells about its training."""
    count, clipped = metrics.count, metrics.sums.get("clipped", 0)
    if not 0 <= count <= MAX_TRAINED:
        return f"its training covers {count} examples, which is not between 0 and 2**50"
    if len(metrics.sums) > MAX_NAMES:
        return f"it tells {len(metrics.sums)} figures about its training; at most {MAX_NAMES} count"
    if not 0 <= clipped <= count:
        return f"its 'clipped' = {clipped} is not a count of its {count} examples"
    return _figures_defect(metrics)


def _figures_defect(metrics: Metrics) -> str | None:
    if defect := _name_defect(metrics.sums):
        return defect
    for name, value in metrics.sums.items():
        if "/" in name and not (_COUNT.fullmatch(name) and 0 <= value <= metrics.count):
            return f"its {name!r} = {value} is not a count of its {metrics.count} examples"
        if name == "accuracy" and not 0 <= value <= metrics.count:
            return f"its accuracy counts {value} right answers of {metrics.count} examples"
    return _not_finite(metrics.sums)


def listed(names: Iterable[str]) -> str:
    """Return names that a client chose, as a sentence shows them: as many as there is room for."""
    return f"{sorted(names)!s:.{_ROOM}}"


def _name_defect(numbers: Mapping[str, float]) -> str | None:
    defect = name_defect(numbers)
    return f"among its figures {defect}" if defect else None


def _not_finite(numbers: Mapping[str, float]) -> str | None:
    for name, value in numbers.items():
        if not isfinite(value):
            return f"its {name!r} is {value}, which is not finite"
    return None
