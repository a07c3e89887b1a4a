"""The sites of a strategy: the places where federated algorithms differ.

Every site is a frozen record of functions. State is explicit: it goes in and comes out, as named
tensors, so that checkpoints hold all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

from roundel.core.learning import Learner, LocalContext, LocalJob, Trained
from roundel.core.messages import ClientUpdate
from roundel.core.params import ParamSpec

State = Mapping[str, Tensor]
"""Named tensors of one part, on the server or at a client."""

Aggregate = Mapping[str, Tensor]
"""Channel name to what its aggregator made of the round's updates."""


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """What the server knows when it turns a round's updates into a step.

    Attributes:
        round: The round, from 1.
        population: N, how many clients there are.
        selected: How many were asked.
        completed: m, how many updates were accepted.
        root: What training on the server's own root examples gave, if the strategy asked for it.
    """

    round: int
    population: int
    selected: int
    completed: int
    root: Mapping[str, Tensor] | None = None


# ---- who, and how long


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a selector may look at.

    Attributes:
        round: The round, from 1.
        population: N; clients are ``range(population)``.
        size: How many updates the round wants.
        seed: The round's seed for this purpose.
    """

    round: int
    population: int
    size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Chooses the cohort.

    Attributes:
        name: What to call it.
        select: Selection to distinct client numbers, sorted. The cost must not grow with the
            population. It may return more than `Selection.size`: the round then ends as soon as
            that many updates have arrived.
    """

    name: str
    select: Callable[[Selection], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Synchronous:
    """Pacing by rounds: wait for the cohort, but not for ever.

    Attributes:
        quorum: How many updates a round needs to count.
        deadline_s: After how many seconds a round goes on with those that arrived; None to wait.
    """

    quorum: int = 1
    deadline_s: float | None = None


# ---- at a client


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a finishing step adds to an update.

    Attributes:
        channels: Named tensors to send.
        scalars: Named numbers to send.
        state: Named tensors to keep at the client; names carry the part's name as a prefix.
    """

    channels: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    scalars: Mapping[str, float] = field(default_factory=dict[str, float])
    state: State = field(default_factory=dict[str, Tensor])


ChannelKinds = Mapping[str, tuple[int, torch.dtype]]
"""Channel name to its length and dtype."""

Finisher = Callable[[Trained, LocalContext], Finished]
"""Runs after local training; broadcasts over a leading client axis like a correction."""

Solver = Callable[[Learner, LocalJob], Trained]
"""Replaces the learning loop, for local work that is more than a sequence of phases."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Changes channels on their way from a client to the server.

    Attributes:
        name: What to call it.
        encode: Channels, client state and a seed to channels as sent and new client state.
        decode: Channels as sent, and the length and dtype that each must end with, to channels as
            aggregated.
    """

    name: str
    encode: Callable[[Mapping[str, Tensor], State, int], tuple[Mapping[str, Tensor], State]]
    decode: Callable[[Mapping[str, Tensor], ChannelKinds], Mapping[str, Tensor]]


# ---- on the server


@dataclass(frozen=True, kw_only=True)
class Weigher:
    """Gives each update its aggregation weight.

    Attributes:
        name: What to call it.
        weigh: Update to a finite weight above 0.
        denominator: What weighted sums are divided by; None for the sum of the weights that
            arrived.
    """

    name: str
    weigh: Callable[[ClientUpdate], float]
    denominator: float | None = None


class Accumulator(Protocol):
    """A channel's updates on their way to an aggregate."""

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        """Take one client's tensor."""
        ...

    def merge(self, other: Self) -> None:
        """Take everything that another accumulator of this channel has taken."""
        ...

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        """Return the aggregate, shape and dtype as given to `Aggregator.start`."""
        ...


class Aggregator(Protocol):
    """How one channel is reduced over clients.

    A *sum-type* aggregator streams: its memory does not depend on the cohort. A *set-type* one
    keeps every update of the round. ``traits`` says which it is.
    """

    @property
    def traits(self) -> frozenset[str]:
        """``{"sum"}`` or ``{"set"}``."""
        ...

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator of vectors of length `size`."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServerTransform:
    """One link of the chain that turns aggregates into the step ``params += aggregate["params"]``.

    Attributes:
        name: Unique in a strategy; names its state.
        init: Shared trainable parameters ``(T,)`` to state.
        update: Aggregate, state, parameters and context to a new aggregate and new state.
    """

    name: str
    init: Callable[[Tensor], State]
    update: Callable[[Aggregate, State, Tensor, RoundContext], tuple[Aggregate, State]]


Broadcast = Callable[[Mapping[str, State]], Tensor]
"""The states of all server transforms, by name, to a tensor that goes to every client."""


def stateless(_params: Tensor) -> State:
    """Initialise a transform that keeps no state."""
    return {}


def shared_only(spec: ParamSpec, change: Callable[[Tensor], Tensor], trainable: Tensor) -> Tensor:
    """Apply `change` to the shared part of a trainable vector and leave personal layers alone.

    Args:
        spec: The model's layout.
        change: Takes and returns shape ``(..., T_shared)``.
        trainable: Shape ``(..., T)``.
    """
    shared = spec.shared_trainable.stop - spec.shared_trainable.start
    if trainable.shape[-1] == shared:
        return change(trainable)
    return torch.cat([change(trainable[..., :shared]), trainable[..., shared:]], dim=-1)
