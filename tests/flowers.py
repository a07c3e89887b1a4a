"""Strategies of Flower's as users write them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.server.strategy import FedAvg as OlderFedAvg
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedMedian,
    Result,
)
from flwr.supercore import log

__all__ = ["FedMedian"]


class Momentum(FedAvg):
    """Heavy ball, and what else a strategy may remember.

    Args:
        beta: How much of the velocity stays.
    """

    def __init__(self, beta: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = beta
        self.velocity: dict[str, Any] | None = None
        self.sent: ArrayRecord | None = None
        self.recent: deque[float] = deque(maxlen=2)
        self.random = np.random.default_rng(5)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep the model."""
        self.sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move by the velocity, and a little at random."""
        made, metrics = super().aggregate_train(server_round, replies)
        assert made is not None
        assert self.sent is not None
        before = self.velocity or {}
        self.velocity = {
            name: self.beta * before.get(name, 0.0) + array.numpy() - self.sent[name].numpy()
            for name, array in made.items()
        }
        self.recent.append(float(self.random.normal()))
        moved = {
            name: self.sent[name].numpy() + velocity + 1e-3 * self.recent[-1] + 1e-3 * draw()
            for name, velocity in self.velocity.items()
        }
        return ArrayRecord({name: Array(np.asarray(v)) for name, v in moved.items()}), metrics


def draw() -> float:
    """Return a number from NumPy's global generator."""
    return float(np.random.normal())  # noqa: NPY002 - as users do


class Locked(Momentum):
    """Keeps something that nobody can write down."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lock = threading.Lock()


class Calling(Momentum):
    """Keeps callables that remember something; its model moves by what they return.

    Args:
        how: ``method``, ``closure`` or ``schedule``.
    """

    def __init__(self, how: str = "method", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        makes = {"method": lambda: Tally().up, "closure": tally, "schedule": lambda: constant(0.5)}
        self.how, self.call = how, makes[how]()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move by what is called, and halve what the schedule says."""
        made, metrics = super().aggregate_train(server_round, replies)
        assert made is not None
        step = self.call()
        if self.how == "schedule":
            self.call = constant(step / 2)
        return ArrayRecord({k: Array(v.numpy() + step) for k, v in made.items()}), metrics


class Tally:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0.0

    def up(self) -> float:
        """Return how often it was called."""
        self.count += 1.0
        return self.count


def tally() -> Callable[[], float]:
    """Return what counts in a closure."""
    count = 0.0

    def up() -> float:
        nonlocal count
        count += 1.0
        return count

    return up


def constant(value: float) -> Callable[[], float]:
    """Return what returns a value."""
    return lambda: value


class Waiting(FedAvg):
    """Looks who is there in a loop of its own."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for a thousand."""
        while len(list(grid.get_node_ids())) < 1000:
            pass
        return super().configure_train(server_round, arrays, config, grid)


class Decaying(FedAvg):
    """Tells clients a learning rate, from some round on."""

    def __init__(self, since: int = 1, key: str = "lr") -> None:
        super().__init__()
        self.since, self.key = since, key

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Put a setting beside the model."""
        if server_round >= self.since:
            config[self.key] = 0.25
        return super().configure_train(server_round, arrays, config, grid)


class Asking(FedAvg):
    """Sends messages by itself, or others than those of a round."""

    def __init__(self, how: str = "sends") -> None:
        super().__init__()
        self.how = how

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do it."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if self.how == "sends":
            grid.send_and_receive(messages)
        if self.how == "scales" and arrays:
            other = ArrayRecord({k: Array(2 * a.numpy()) for k, a in arrays.items()})
            return super().configure_train(server_round, other, config, grid)
        if self.how == "stranger":
            return [Message(messages[0].content, 7, "train")]
        if self.how == "query":
            return [Message(m.content, m.metadata.dst_node_id, "query") for m in messages]
        return [*messages, *messages] if self.how == "twice" else messages


class Broken(FedAvg):
    """Returns what is no model, from round 2 on."""

    def __init__(self, how: str = "none") -> None:
        super().__init__()
        self.how = how

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Break."""
        made, metrics = super().aggregate_train(server_round, replies)
        assert made is not None
        name = next(iter(made))
        if server_round < 2:
            return made, metrics
        match self.how:
            case "none":
                log(30, "nobody is\n trusted.")
                return None, metrics
            case "raises":
                raise KeyError("lost")
            case "name":
                made["other"] = made.pop(name)
            case "shape":
                made[name] = Array(np.zeros(17))
            case "infinite":
                made[name] = Array(np.full(made[name].shape, np.nan))
            case _:
                return made
        return made, metrics


class Looping(FedAvg):
    """Has a loop of its own."""

    def start(self, *args: Any, **kwargs: Any) -> Result:
        return super().start(*args, **kwargs)


def private(noise: float = 0.0) -> DifferentialPrivacyServerSideFixedClipping:
    """Wrap a strategy, as no file can say."""
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(), noise, 1000.0, 3)


class Older(OlderFedAvg):
    """Of the older interface."""
