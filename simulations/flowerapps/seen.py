"""What can be seen of a Flower app from outside: the messages of each round, and what they say.

An app need not have rounds, and Flower does not say which message belongs to which. Its strategies
put the round into every message, and its workflows into the group; where an app does neither, each
new wave of training counts as one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task

_TRAIN = "train"
_ROUND = "server-round"
_MOST_DIGITS = 18
_WEIGHTS = ("num-examples", "num_examples")
_LEGACY_METRICS = (".metrics",)
"""Apps of the older kind send metrics as settings; so end the names of those."""

Line = Mapping[str, Any]
"""One line of ``metrics.jsonl``."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Messages that were sent together, and their answers.

    Attributes:
        tasks: The messages.
        answers: One for each, in their order.
        began_s: When they were sent, by a clock of seconds.
        ended_s: When all were answered.
    """

    tasks: Sequence[Task]
    answers: Sequence[Answer]
    began_s: float
    ended_s: float

    @property
    def kind(self) -> str:
        """What the clients were asked for, such as ``"train"``."""
        return str(self.tasks[0].metadata["message_type"]).partition(".")[0]

    def by_client(self) -> list[tuple[int, Answer]]:
        """Return the answers with the number of the client, by which they are sorted."""
        pairs = zip(self.tasks, self.answers, strict=True)
        return sorted(((task.client, answer) for task, answer in pairs), key=lambda pair: pair[0])

    @property
    def round(self) -> int | None:
        """The round that the first message says it belongs to."""
        group = self.tasks[0].metadata["group_id"]
        if group.isdecimal() and len(group) <= _MOST_DIGITS:
            return int(group) or None
        said = _settings(self.tasks[0].content).get(_ROUND)
        return said if said and type(said) is int else None  # an app may mean something else by it


@dataclass(kw_only=True)
class _Side:
    """What there is to say about one kind of messages of a round."""

    messages: int = 0
    failures: int = 0
    replies: list[Parcel] = field(default_factory=list[Parcel])

    def line(self) -> Line:
        return {
            "messages": self.messages,
            "replies": len(self.replies),
            "failures": self.failures,
            "metrics": mean_figures(self.replies),
        }


class Rounds:
    """Puts exchanges together to rounds.

    Attributes:
        number: The round that is open; 0 before the first.
        lost: Rounds in which every message of a kind failed: their numbers and kinds.
    """

    def __init__(self) -> None:
        self.number = 0
        self.lost: list[tuple[int, str]] = []
        self._sides: dict[str, _Side] = {}
        self._began_s = self._ended_s = 0.0
        self._up = self._down = 0

    def add(self, exchange: Exchange) -> Line | None:
        """Take note of an exchange; return the round before if that is over by it."""
        number = self._number(exchange)
        line = self.finish() if number != self.number else None
        if not self._sides:
            self._began_s = exchange.began_s
        self.number = number
        self._ended_s = exchange.ended_s
        side = self._sides.setdefault(exchange.kind, _Side())
        side.messages += len(exchange.tasks)
        side.failures += sum(answer.trouble is not None for answer in exchange.answers)
        replies = [answer.content for answer in exchange.answers if answer.content is not None]
        side.replies += replies
        self._down += sum(task.content.size_bytes for task in exchange.tasks)
        self._up += sum(reply.size_bytes for reply in replies)
        return line

    def finish(self) -> Line | None:
        """Return the round that is open, and close it; None if there is none."""
        if not self._sides:
            return None
        self.lost += [
            (self.number, kind)
            for kind, side in self._sides.items()
            if side.messages and side.failures == side.messages
        ]
        line = {
            "round": self.number,
            **{kind: side.line() for kind, side in self._sides.items()},
            "bytes_up": self._up,
            "bytes_down": self._down,
            "seconds": self._ended_s - self._began_s,
        }
        self._sides, self._up, self._down = {}, 0, 0
        return line

    def _number(self, exchange: Exchange) -> int:
        if (said := exchange.round) is not None:
            return said
        again = exchange.kind == _TRAIN and _TRAIN in self._sides
        return self.number + 1 if again or not self.number else self.number


def figures(parcel: Parcel) -> dict[str, float]:
    """Return the numbers that a reply reports.

    >>> figures(Parcel(records=[["m", "metrics", {"loss": 0.5, "by-class": [1.0, 2.0]}]]))
    {'loss': 0.5}
    """
    found: dict[str, float] = {}
    for name, kind, values in parcel.records:
        if kind == "metrics":
            found |= {key: value for key, value in values.items() if not isinstance(value, list)}
        elif kind == "config" and name.endswith(_LEGACY_METRICS):
            found |= {
                key: value
                for key, form, value in values
                if not form and isinstance(value, int | float)
            }
    return found


def mean_figures(replies: Sequence[Parcel]) -> dict[str, float]:
    """Return means over replies, weighted by their numbers of examples if all report these.

    Args:
        replies: What clients answered.

    >>> reply = lambda loss, size: Parcel(
    ...     records=[["m", "metrics", {"loss": loss, "num-examples": size}]]
    ... )
    >>> mean_figures([reply(1.0, 3), reply(2.0, 1)])
    {'loss': 1.25, 'num-examples': 4}
    """
    rows = [figures(reply) for reply in replies]
    weight = next((key for key in _WEIGHTS if all(row.get(key, 0) > 0 for row in rows)), None)
    weights = [row[weight] if weight else 1.0 for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    means = {
        name: _mean((row[name], by) for row, by in zip(rows, weights, strict=True) if name in row)
        for name in names
        if name not in _WEIGHTS
    }
    if weight and rows:
        means[weight] = sum(weights)
    return {name: value for name, value in means.items() if isfinite(value)}


def _mean(pairs: Iterable[tuple[float, float]]) -> float:
    total = weight = 0.0
    for value, by in pairs:
        total += value * by
        weight += by
    return total / weight


def layout(parcel: Parcel) -> dict[str, Sequence[int]]:
    """Return the shapes of all arrays of a reply, by record and name.

    >>> layout(Parcel(records=[["arrays", "arrays", [["w", "float32", [2, 3], "numpy.ndarray"]]]]))
    {'arrays.w': [2, 3]}
    """
    return {
        f"{record}.{name}": list(shape)
        for record, kind, values in parcel.records
        if kind == "arrays"
        for name, _, shape, _ in values
    }


def odd_reply(exchange: Exchange) -> str:
    """Say which client's reply differs from that of the first in what it holds, if one does.

    Most strategies cannot join such replies, and what they raise does not name the client.
    """
    answered = [
        (client, answer.content)
        for client, answer in exchange.by_client()
        if answer.content is not None
    ]
    for client, content in answered:
        if not any(kind == "metrics" for _, kind, _ in content.records):
            return f"the reply of client {client} to {exchange.kind!r} has no metrics"
    (first, model), *others = answered or [(0, Parcel())]
    for client, content in others:
        for name, shape in layout(content).items():
            if name not in layout(model):
                return f"client {client} replied with the array {name!r}, client {first} without"
            if shape != layout(model)[name]:
                return (
                    f"client {client} replied with the array {name!r} in the shape {shape}, "
                    f"client {first} in the shape {layout(model)[name]}"
                )
    return ""


def _settings(parcel: Parcel) -> dict[str, Any]:
    return {
        key: value
        for _, kind, values in parcel.records
        if kind == "config"
        for key, form, value in values
        if not form
    }
