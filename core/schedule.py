"""From the experiment's `client` section to a round's local training."""

from math import cos, pi

from roundel.core.config import ClientConfig
from roundel.core.job import Phase
from roundel.core.optimizers import OptimizerSpec

_DEFAULT_EPOCHS = 5


def with_duration(client: ClientConfig) -> ClientConfig:
    """Return the same section, with the default number of epochs if it sets no duration."""
    if client.epochs is None and client.steps is None:
        return client.model_copy(update={"epochs": _DEFAULT_EPOCHS})
    return client


def lr_factor(client: ClientConfig, round: int, rounds: int) -> float:
    """Return what the schedule multiplies the learning rate by in a round (from 1)."""
    if client.schedule == "step":
        return client.gamma ** ((round - 1) // client.gamma_every)
    if client.schedule == "cosine":
        return (1 + cos(pi * (round - 1) / rounds)) / 2
    return 1.0


def local_phases(client: ClientConfig, round: int, rounds: int) -> tuple[Phase, ...]:
    """Return the local training of a round, before a strategy rewrites it.

    Raises:
        ConfigError: The optimizer does not exist or refuses an option.
    """
    optimizer = OptimizerSpec(
        name=client.optimizer,
        lr=client.lr * lr_factor(client, round, rounds),
        momentum=client.momentum,
        nesterov=client.nesterov,
        weight_decay=client.weight_decay,
        options=client.options,
    )
    return (
        Phase(
            optimizer=optimizer,
            epochs=with_duration(client).epochs,
            steps=client.steps,
            batch_size=None if client.batch_size == "full" else client.batch_size,
            clip_norm=client.clip_norm,
        ),
    )
