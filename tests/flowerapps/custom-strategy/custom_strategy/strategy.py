"""A strategy with a momentum of its own."""

from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg


class MomentumAvg(FedAvg):
    """Federated averaging that keeps going where it went."""

    def __init__(self, *args, server_lr: float, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.server_lr = server_lr
        self.current = None
        self.velocity = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note what is sent, and lower the learning rate after a while."""
        self.current = arrays
        if server_round == 3:
            config.update({"lr": config["lr"] * 0.5})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Step with momentum towards the mean, which is summed up in a fixed order."""
        ordered = sorted(replies, key=lambda reply: reply.content["metrics"]["partition"])
        mean, metrics = super().aggregate_train(server_round, ordered)
        if mean is None:
            return mean, metrics
        steps = {k: mean[k].numpy() - self.current[k].numpy() for k in mean}
        old = self.velocity or {k: np.zeros_like(v) for k, v in steps.items()}
        self.velocity = {k: 0.9 * old[k] + v for k, v in steps.items()}
        moved = {
            k: Array(self.current[k].numpy() + self.server_lr * v) for k, v in self.velocity.items()
        }
        return ArrayRecord(moved), metrics
