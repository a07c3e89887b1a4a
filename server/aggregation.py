"""From accepted updates to the next parameters. Pure: state in, state out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.learning import Learner
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS, ClientUpdate
from roundel.core.params import ParamSpec
from roundel.core.ranks import Ranks
from roundel.core.rows import rows_of
from roundel.core.seeds import derive
from roundel.strategies.compose import Strategy
from roundel.strategies.sites import (
    Accumulator,
    AddsRows,
    Aggregate,
    RoundContext,
    Sent,
    State,
    Told,
)


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Everything the server carries from round to round.

    Attributes:
        round: How many rounds have been committed; also the version of `params`.
        params: The shared part of the vector: buffers, then trainable; shape ``(S,)``.
        integers: The shared integer buffers.
        transforms: Server transform to its state.
    """

    round: int
    params: Tensor
    integers: Tensor
    transforms: Mapping[str, State] = field(default_factory=dict[str, State])


def initial_state(
    strategy: Strategy, spec: ParamSpec, vector: Tensor, integers: Tensor
) -> ServerState:
    """Return the state before round 1.

    Args:
        strategy: Its transforms are initialised.
        spec: The model's layout.
        vector: The initial vector, shape ``(D,)``; nobody may write to it any more.
        integers: The initial integer buffers, likewise.
    """
    trainable = vector[spec.shared_trainable]
    return ServerState(
        round=0,
        params=vector[spec.shared],
        integers=integers[spec.shared_integers],
        transforms={link.name: link.init(trainable) for link in strategy.server},
    )


def broadcast_channels(strategy: Strategy, state: ServerState) -> dict[str, Tensor]:
    """Return what goes to the cohort besides the parameters."""
    return {channel: fill(state.transforms) for channel, fill in strategy.broadcast.items()}


class Accumulators:
    """One accumulator for each channel of an update; merges with those of other workers.

    Attributes:
        channels: Channel to its accumulator.
    """

    def __init__(
        self, strategy: Strategy, spec: ParamSpec, ahead: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin with nothing.

        Args:
            strategy: Weighs and aggregates updates.
            spec: The model's layout.
            ahead: By how much the model that clients were sent is ahead of the one towards which
                updates are summed, by channel; None if it is the same.
        """
        self._strategy = strategy
        self._ahead = ahead or {}
        self.channels: dict[str, Accumulator] = {
            channel: strategy.aggregators[channel].start(
                size, torch.float64 if channel in strategy.noised else dtype
            )
            for channel, (size, dtype) in strategy.aggregated(spec).items()
        }

    def add(self, update: ClientUpdate) -> None:
        """Add an update that the admission gate has let through."""
        self.add_all([update])

    def add_all(self, updates: Sequence[ClientUpdate]) -> None:
        """Add several updates, at least one, that it has let through."""
        weights = [self._strategy.weigher.weigh(update) for update in updates]
        sent = [self._caught_up(update.channels) for update in updates]
        for channel, accumulator in self.channels.items():
            derive = self._strategy.derived.get(channel)
            values = [each[channel] if derive is None else derive(each) for each in sent]
            if isinstance(accumulator, AddsRows):
                accumulator.add_rows(rows_of(values), weights)
                continue
            for update, value, weight in zip(updates, values, weights, strict=True):
                accumulator.add(update.ticket.client_id, value, weight)

    def _caught_up(self, channels: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return an update's channels as seen from the model towards which they are summed."""
        if not self._ahead:
            return channels
        return {
            **channels,
            **{channel: channels[channel] + by for channel, by in self._ahead.items()},
        }

    def merge(self, other: "Accumulators") -> None:
        """Add everything that another worker has accumulated."""
        for channel, accumulator in self.channels.items():
            accumulator.merge(other.channels[channel])

    def reduce(self, ranks: Ranks) -> None:
        """Add everything that the other ranks have accumulated; nothing if there are none."""
        if ranks.size > 1:
            for accumulator in self.channels.values():
                accumulator.reduce(ranks)

    def finish(self, context: RoundContext) -> dict[str, Tensor]:
        """Return the aggregate of each channel."""
        fixed = self._strategy.weigher.denominator
        denominator = None if fixed is None else fixed(context)
        return {
            channel: accumulator.finish(denominator, context)
            for channel, accumulator in self.channels.items()
        }


def step(
    strategy: Strategy,
    spec: ParamSpec,
    state: ServerState,
    aggregate: Mapping[str, Tensor],
    context: RoundContext,
) -> ServerState:
    """Return the state after a round.

    Trainable parameters go through the strategy's chain; float buffers take their weighted mean,
    integer buffers their maximum, or their lower median where the strategy has a rule. Where noise
    is added, rounding comes after it: before, it could move a mean by more than is accounted for.
    """
    kinds = strategy.channels(spec)
    where = spec.shared_trainable
    trainable = state.params[where]
    sent = Sent(spec=spec, params=state.params, integers=state.integers)
    context = replace(context, sent=sent)
    flowing: Aggregate = aggregate
    if not strategy.alone:
        flowing = {c: v for c, v in aggregate.items() if c not in (BUFFERS, INTEGERS)}
    transforms: dict[str, State] = {}
    for link in strategy.server:
        before = state.transforms.get(link.name, {})
        flowing, after = link.update(flowing, before, trainable, context)
        if after.keys() != before.keys():
            raise CompositionError(
                f"the update of {link.name} returned the state {sorted(after)}, and its init made "
                f"{sorted(before)}; return the same names in every round"
            )
        transforms[link.name] = after
        if link.noise is not None:
            flowing = {c: v.to(kinds[c][1]) if c in kinds else v for c, v in flowing.items()}
    aggregate = {**aggregate, **flowing}
    buffers = state.params[spec.shared_buffers]
    if BUFFERS in aggregate:
        buffers = buffers + aggregate[BUFFERS]
    return ServerState(
        round=context.round,
        params=_joined(buffers, trainable + flowing[PARAMS]),
        integers=aggregate[INTEGERS]
        if INTEGERS in aggregate and context.completed
        else state.integers,
        transforms=transforms,
    )


def reported(strategy: Strategy, spec: ParamSpec, state: ServerState) -> Tensor:
    """Return the shared part of the vector that is evaluated and saved, shape ``(S,)``."""
    if strategy.report is None:
        return state.params
    where = spec.shared_trainable
    said = strategy.report(state.transforms, state.params[where])
    return _joined(state.params[spec.shared_buffers], said)


def completed(strategy: Strategy, learner: Learner, state: ServerState) -> tuple[Tensor, Tensor]:
    """Return both vectors of that model whole, with personal layers as a new client has them."""
    return learner.completed(reported(strategy, learner.spec, state), state.integers)


def _joined(buffers: Tensor, trainable: Tensor) -> Tensor:
    """Return the shared part of the vector, shape ``(S,)``, without a copy if that is one part."""
    return torch.cat([buffers, trainable]) if len(buffers) else trainable


def aggregate_updates(
    strategy: Strategy,
    spec: ParamSpec,
    state: ServerState,
    updates: Iterable[ClientUpdate],
    population: int,
    **more: Any,  # noqa: ANN401 - fields of different types
) -> ServerState:
    """Apply one round's decoded updates at once: for tests, and for servers that are not ours.

    Args:
        strategy: How.
        spec: The model's layout.
        state: The state before the round.
        updates: At most one a client.
        population: N.
        more: Further fields of the `RoundContext`.
    """
    accumulators = Accumulators(strategy, spec)
    told: dict[int, Told] = {}
    for update in updates:
        accumulators.add(update)
        told[update.ticket.client_id] = Told(
            num_examples=update.num_examples, metrics=update.metrics.means()
        )
    completed = len(told)
    context = RoundContext(
        round=state.round + 1,
        population=population,
        selected=completed,
        completed=completed,
        states=state.transforms,
        told=told,
        **{
            "wanted": completed,
            "seed": derive(0, "aggregation", state.round + 1),
            "cohort": sorted(told),
            **more,
        },
    )
    return step(strategy, spec, state, accumulators.finish(context), context)
