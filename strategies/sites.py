"""The sites of a strategy: the places where federated algorithms differ.

Every site is a frozen record of functions. State is explicit: it goes in and comes out, as named
tensors, so that checkpoints hold all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, LocalJob, Trained
from roundel.core.learning import Learner
from roundel.core.messages import ClientUpdate
from roundel.core.params import ParamSpec
from roundel.core.ranks import Ranks

State = Mapping[str, Tensor]
"""Named tensors of one part, on the server or at a client."""

Aggregate = Mapping[str, Tensor]
"""Channel name to what its aggregator made of the round's updates."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a client has said beside its tensors.

    Attributes:
        num_examples: How many examples it trained on.
        metrics: Means over them, by name.
    """

    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class Sent:
    """The model that a cohort was sent.

    Attributes:
        spec: Its layout.
        params: The shared part of the vector, shape ``(S,)``.
        integers: The shared integer buffers.
    """

    spec: ParamSpec
    params: Tensor
    integers: Tensor


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """What the server knows when it turns a round's updates into a step.

    Attributes:
        round: The round, from 1.
        population: N, how many clients there are.
        selected: How many were asked.
        completed: m, how many updates were accepted.
        wanted: How many updates a round is meant to have; the denominator where one is fixed.
        root: What training on the server's own root examples gave, if the strategy asked for it.
        states: The states of all server transforms before this round, by name.
        noise: Standard normal numbers, float64, for each channel of each link that asked for them,
            as ``"link/channel"``.
        seed: For whatever else is random in this round's aggregation.
        cohort: Who was asked, by client number.
        told: Client to what it has said, for each whose update was accepted; for a link that does
            everything `alone`.
        sent: What the cohort was sent; links of the server's chain have it, aggregators do not.
    """

    round: int
    population: int
    selected: int
    completed: int
    wanted: int = 0
    root: Mapping[str, Tensor] | None = None
    states: Mapping[str, State] = field(default_factory=dict[str, State])
    noise: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    seed: int = 0
    cohort: Sequence[int] = ()
    told: Mapping[int, Told] = field(default_factory=dict[int, Told])
    sent: Sent | None = None


# ---- who, and how long


def _unknown(*_: object) -> NoReturn:
    raise CompositionError(
        "the selector asks about clients whom nobody here knows; use one that does not, such as "
        "the uniform one"
    )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a selector may look at.

    Attributes:
        round: The round, from 1.
        population: N; clients are ``range(population)``.
        size: How many updates the round wants.
        seed: The round's seed for this purpose.
        run_seed: A seed for this purpose that is the same in every round.
        sizes: Returns how many training examples each client has, in the order of their numbers.
        losses: Asks these clients for the mean loss of the current parameters on their training
            examples; infinite where one does not answer.
    """

    round: int
    population: int
    size: int
    seed: int
    run_seed: int = 0
    sizes: Callable[[], Sequence[int]] = _unknown
    losses: Callable[[Sequence[int]], Sequence[float]] = _unknown


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Chooses the cohort.

    Attributes:
        name: What to call it.
        select: Selection to distinct client numbers, in the order in which they are asked, which
            is the sorted one. The cost must not grow with the population. It may return more than
            `Selection.size`: the round then ends as soon as that many updates have arrived, and the
            order should be random.
        poisson: Whether each client takes part on its own, with probability ``size / population``.
            All that were selected are then waited for, there may be none, and privacy is amplified.
        asks: Whether it looks at `Selection.sizes` or `Selection.losses`, to which nothing adds
            noise. With privacy there is nothing to look at.
    """

    name: str
    select: Callable[[Selection], Sequence[int]]
    poisson: bool = False
    asks: bool = False


@dataclass(frozen=True, kw_only=True)
class Synchronous:
    """Pacing by rounds: wait for the cohort, but not for ever.

    Attributes:
        quorum: How many updates a round needs to count.
        deadline_s: After how many seconds a round goes on with those that arrived; None to wait.
        deadline_factor: After how many times the median time of those that arrived it does so, once
            they are half of the target; None to wait.
    """

    quorum: int = 1
    deadline_s: float | None = None
    deadline_factor: float | None = None


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


Settler = Callable[[Mapping[str, Tensor], LocalContext], State]
"""Client state that goes with what the server will make of an update.

Its channels are given once codecs have encoded and decoded them. What a lossy codec leaves out is
then neither in the server's state nor in the client's. Broadcasts like a finisher.
"""

SideWork = Callable[[Learner, LocalJob], State]
"""Trains something else beside the model that is sent, and returns it as client state."""

Evaluated = Callable[[Tensor, State], Tensor]
"""What a client evaluates: from the vector ``(D,)`` that it received and its state."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What a codec may look at on the server.

    Attributes:
        spec: The model's layout.
        kinds: What each channel must end as.
        broadcast: What the cohort was sent besides the parameters.
    """

    spec: ParamSpec
    kinds: ChannelKinds
    broadcast: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Changes channels on their way from a client to the server.

    A codec is given the channels that are as long as the shared trainable parameters, and what
    codecs before it have put beside them. What it puts beside channel ``c`` is called ``c/...``.

    Attributes:
        name: What to call it; names its client state and its seed.
        encode: Channels, the client's context and a seed to channels as sent and new client state.
            Other channels that it returns, which the strategy must aggregate, are sent as they are.
        decode: Channels as sent to channels as aggregated. It checks what it reads: a client may
            have sent anything.
        secret: Whether the seed must be one that nobody else can know or repeat: it then has 256
            bits and does not come from the experiment.
        stateful: Whether it keeps anything at the client.
        voluntary: Whether it protects nobody but the client itself, so that one that attacks leaves
            it out. `decode` takes what comes without it.
    """

    name: str
    encode: Callable[[Mapping[str, Tensor], LocalContext, int], tuple[Mapping[str, Tensor], State]]
    decode: Callable[[Mapping[str, Tensor], Decoding], Mapping[str, Tensor]]
    secret: bool = False
    stateful: bool = True
    voluntary: bool = False


# ---- on the server


@dataclass(frozen=True, kw_only=True)
class Weigher:
    """Gives each update its aggregation weight.

    Attributes:
        name: What to call it.
        weigh: Update to a finite weight above 0.
        denominator: Gives what weighted sums are divided by; None for the sum of the weights that
            arrived.
    """

    name: str
    weigh: Callable[[ClientUpdate], float]
    denominator: Callable[[RoundContext], float] | None = None


class Accumulator(Protocol):
    """A channel's updates on their way to an aggregate."""

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        """Take one client's tensor."""
        ...

    def merge(self, other: Self) -> None:
        """Take everything that another accumulator of this channel has taken."""
        ...

    def reduce(self, ranks: Ranks) -> None:
        """Take everything that the accumulators of this channel on the other ranks have taken.

        All ranks then hold the same, so that all finish with the same bits.
        """
        ...

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        """Return the aggregate, shape and dtype as given to `Aggregator.start`.

        It is called once: it may let go of the updates while it works.
        """
        ...


@runtime_checkable
class AddsRows(Protocol):
    """An accumulator that takes several clients' tensors for less than one after another."""

    def add_rows(self, rows: Tensor, weights: Sequence[float]) -> None:
        """Take them, to the same bits as one after another.

        Args:
            rows: Shape ``(K, n)``, at least one.
            weights: Of each row.
        """
        ...


class Aggregator(Protocol):
    """How one channel is reduced over clients.

    A *sum-type* aggregator streams: its memory does not depend on the cohort. A *set-type* one
    keeps every update of the round and, while it finishes, copies them to float64, letting go of
    each: up to three times the updates where they are float32. ``traits`` says which it is.
    """

    @property
    def traits(self) -> frozenset[str]:
        """``{"sum"}`` or ``{"set"}``."""
        ...

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator of vectors of length `size`."""
        ...


Rule = Callable[[Tensor, Tensor, RoundContext], Tensor]
"""Rows ``(K, D)`` float64, weights ``(K,)`` and the context to one vector ``(D,)``."""

Mixer = Callable[[Tensor, RoundContext], Tensor]
"""Rows ``(K, D)`` float64 to the rows that a rule sees in their place, which then weigh the same.
"""

Derived = Callable[[Mapping[str, Tensor]], Tensor]
"""Computes, on the server, a further channel from the decoded channels of one update."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What a link of the server's chain needs to be random.

    Attributes:
        channels: The aggregated channels for which it needs standard normal numbers.
        seeded: Whether they come from the experiment's seed, so that anyone can take them off
            again. Otherwise a cryptographic generator draws them.
    """

    channels: tuple[str, ...]
    seeded: bool = False


def _nothing(_state: "State") -> str:
    return ""


Accountant = Literal["pld", "rdp"]


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """A client-level guarantee that a strategy gives, for the accountant.

    Attributes:
        noise_multiplier: Standard deviation of the noise, over the most that one client can change
            what it is added to: the sum of updates, or its own update if the noise is local.
        delta: The guarantee's delta.
        budget: The epsilon that the run must not exceed; None for no limit.
        local: Whether each client adds noise of its own, so that one update is already private.
        accountant: ``"pld"`` or ``"rdp"``, see `roundel.server.privacy`.
    """

    noise_multiplier: float
    delta: float
    budget: float | None = None
    local: bool = False
    accountant: Accountant = "pld"


@dataclass(frozen=True, kw_only=True)
class ServerTransform:
    """One link of the chain that turns aggregates into the step ``params += aggregate["params"]``.

    Links that add noise run before all others, so that nothing is built on what is not private.
    They are given means in float64, and what they return is rounded to the model's dtype once.

    Attributes:
        name: Unique in a strategy; names its state.
        init: Shared trainable parameters ``(T,)`` to state.
        update: Aggregate, state, parameters and context to a new aggregate and new state.
        noise: What it needs to be random, if anything.
        alone: Whether it does all that the server does with updates. It is given every channel,
            those of buffers and counters too, as aggregators leave them, and may return them.
        missing: Says what a state that was written down lacks, so that it cannot go on from there;
            empty if nothing.
    """

    name: str
    init: Callable[[Tensor], State]
    update: Callable[[Aggregate, State, Tensor, RoundContext], tuple[Aggregate, State]]
    noise: Noise | None = None
    alone: bool = False
    missing: Callable[[State], str] = _nothing


Report = Callable[[Mapping[str, State], Tensor], Tensor]
"""The states of all server transforms and the shared trainable parameters to those that are
evaluated and saved, where these are not the same."""

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
