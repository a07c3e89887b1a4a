"""FedExP: a server step that grows with how much clients disagree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.messages import PARAMS
from roundel.core.ranks import Ranks
from roundel.strategies.aggregators import joined_numbers
from roundel.strategies.compose import READS_MEAN, RESCALES, Part
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import not_negative, one_of
from roundel.strategies.sites import (
    Accumulator,
    Aggregate,
    RoundContext,
    ServerTransform,
    State,
)
from roundel.strategies.weighers import Weights, weigher

SQUARED = "fedexp.squared"
Reports = Literal["average", "last"]


def fedexp(
    *, epsilon: float = 1e-3, reports: Reports = "average", weights: Weights | None = None
) -> Part:
    """Extrapolate: make the server step as long as the clients' disagreement allows.

        D    = sum(p_k delta_k)
        lr   = max(1, sum(p_k ||delta_k||**2) / (2 (||D||**2 + epsilon)))
        w   += lr * D

    With equal weights ``p_k = 1 / m`` this is the paper's ``sum ||delta_k||**2 / (2 m (...))``.
    Iterates oscillate, so what is evaluated and saved is the mean of the last two; the server keeps
    the one before.

    Args:
        epsilon: Keeps the step bounded where updates cancel, at least 0; the paper tries 0.001 to
            0.1, of which this is the smallest. The authors' code multiplies it by m.
        reports: What is evaluated and saved: ``"average"`` of the last two iterates as in the
            paper, or the ``"last"``, which is what clients are sent in both cases.
        weights: As in `fedavg`; the paper's are ``"uniform"``.

    Needs:
        Nothing: the server computes the norms from what it receives.

    Verified:
        The oracle case, cases drawn at random, numbers by hand, and its limit FedAvg for large
        epsilon.

    Source:
        D. Jhunjhunwala et al., "FedExP: Speeding Up Federated Averaging via Extrapolation",
        ICLR 2023, equation 8 and section 3.
    """
    not_negative("epsilon", epsilon)
    one_of("reports", reports, get_args(Reports))

    def update(
        aggregate: Aggregate, _state: State, params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        rest = {channel: value for channel, value in aggregate.items() if channel != SQUARED}
        lr = _step_size(aggregate[SQUARED], aggregate[PARAMS], epsilon)
        step = (lr * aggregate[PARAMS].double()).to(params.dtype)
        return {**rest, PARAMS: step}, {"previous": params.clone(), "lr": lr}

    return Part(
        name="fedexp",
        weigher=weigher(weights),
        derived={SQUARED: _squared},
        aggregators={SQUARED: _MeanOfNumbers()},
        channel_sizes={SQUARED: 1},
        server=(ServerTransform(name="fedexp", init=_init, update=update),),
        report=_average if reports == "average" else None,
        provides=frozenset({READS_MEAN}),
        refuses_after=changed_mean(),
        refuses={
            RESCALES: "its step compares the lengths of updates with that of their mean, and these "
            "are no longer updates; leave one of them out",
            "set": "its step is a ratio of means, and one client could stretch it at will; leave "
            "one of them out",
        },
    )


def _squared(channels: Mapping[str, Tensor]) -> Tensor:
    return channels[PARAMS].double().square().sum(dim=-1, keepdim=True)


def _step_size(squared: Tensor, mean: Tensor, epsilon: float) -> Tensor:
    """Return the server learning rate, shape ``(1,)``; 1 where all is 0."""
    bound = 2 * (mean.double().square().sum() + epsilon)
    if bound == 0:
        return torch.ones_like(squared)
    return (squared / bound).clamp(min=1)


def _init(params: Tensor) -> State:
    return {"previous": params.clone(), "lr": torch.ones(1, dtype=torch.float64)}


def _average(states: Mapping[str, State], params: Tensor) -> Tensor:
    return (states["fedexp"]["previous"] + params) / 2


@dataclass(frozen=True)
class _MeanOfNumbers:
    """The weighted mean of one number a client, exact at any magnitude.

    A squared norm can be beyond the range in which vectors are summed, and no gate has seen it.
    """

    traits: frozenset[str] = frozenset({"sum"})

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        return _Numbers()


@dataclass
class _Numbers:
    terms: list[float] = field(default_factory=list[float])
    weights: list[float] = field(default_factory=list[float])

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.terms.append(weight * float(value))
        self.weights.append(weight)

    def merge(self, other: "_Numbers") -> None:
        self.terms += other.terms
        self.weights += other.weights

    def reduce(self, ranks: Ranks) -> None:
        self.terms = joined_numbers(self.terms, ranks)
        self.weights = joined_numbers(self.weights, ranks)

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        if denominator is None:
            denominator = fsum(self.weights) or 1.0
        return torch.tensor([fsum(self.terms) / denominator], dtype=torch.float64)
