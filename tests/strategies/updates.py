"""Updates and contexts written out by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roundel.core.job import Trained
from roundel.core.messages import PARAMS, ClientUpdate, Ticket
from roundel.core.metrics import Metrics
from roundel.core.params import Entry, ParamSpec
from roundel.server.aggregation import ServerState, aggregate_updates, initial_state
from roundel.strategies.compose import Strategy
from roundel.strategies.sites import RoundContext
from tests.federations import Point

SPEC = ParamSpec(
    (
        Entry(name="mean", shape=(1,), dtype=torch.float64, trainable=False),
        Entry(name="body", shape=(2,), dtype=torch.float64, trainable=True),
        Entry(name="head", shape=(1,), dtype=torch.float64, trainable=True, personal=True),
    ),
    dtype=torch.float64,
)
"""A vector of four: a buffer, two shared numbers that are trained, and one of the client's own."""

CONTEXT = RoundContext(round=1, population=10, selected=4, completed=3)


def vec(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def trained(vector: Tensor, *, steps: tuple[int, ...] = (1,), **known: Any) -> Trained:
    """Return local work that ended at a vector and learned no figures."""
    none = torch.empty(0, dtype=torch.int64)
    return Trained(vector=vector, integers=none, metrics=Metrics(), steps=steps, **known)


def update(
    client_id: int, *delta: float, examples: int = 1, **channels: Sequence[float]
) -> ClientUpdate:
    return ClientUpdate(
        ticket=Ticket(run="by hand", round=1, client_id=client_id),
        base_version=0,
        num_examples=examples,
        num_steps=1,
        channels={PARAMS: vec(*delta), **{name: vec(*value) for name, value in channels.items()}},
    )


def rounds(
    strategy: Strategy, first: Tensor, *updates: Sequence[ClientUpdate], population: int = 10
) -> list[ServerState]:
    """Return the state before the first round and after each."""
    spec = ParamSpec.of(Point(first))
    states = [initial_state(strategy, spec, first, torch.empty(0, dtype=torch.int64))]
    for each in updates:
        states.append(aggregate_updates(strategy, spec, states[-1], each, population))
    return states


def points(
    strategy: Strategy, first: Tensor, *updates: Sequence[ClientUpdate], population: int = 10
) -> list[list[float]]:
    """Return the parameters after each round."""
    states = rounds(strategy, first, *updates, population=population)
    return [state.params.tolist() for state in states[1:]]
