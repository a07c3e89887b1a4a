"""Rules over rows, called as the server calls them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roundel.core.messages import PARAMS
from roundel.core.seeds import torch_generator
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.sites import RoundContext


def matrix(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def drawn(count: int, size: int, seed: int) -> Tensor:
    """Return rows drawn at random, float64."""
    return torch.randn(count, size, generator=torch_generator(seed), dtype=torch.float64)


def aggregate(
    strategy: Part | Strategy,
    rows: Tensor,
    weights: Sequence[float] | None = None,
    channel: str = PARAMS,
    **context: Any,
) -> Tensor:
    """Return what a strategy makes of a channel's rows, which come last client first."""
    accumulator = compose(strategy).aggregators[channel].start(rows.shape[1], torch.float64)
    given = [1.0] * len(rows) if weights is None else weights
    for client_id in reversed(range(len(rows))):
        accumulator.add(client_id, rows[client_id], given[client_id])
    about = {"round": 1, "population": 100, "selected": len(rows), "completed": len(rows)}
    return accumulator.finish(None, RoundContext(**{**about, **context}))
