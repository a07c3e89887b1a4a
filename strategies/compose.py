"""Strategies are compositions of parts; contradictions are found when they are built.

A `Part` contributes to some sites and says what it provides, needs and cannot live with. `compose`
puts parts side by side and returns a `Strategy`. Nothing inherits from anything: FedProx is FedAvg
with one more part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from roundel.core.errors import CompositionError
from roundel.core.learning import Correction, LossTerm, Phase
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS
from roundel.core.params import ParamSpec
from roundel.strategies.aggregators import Maximum, Mean
from roundel.strategies.selectors import UNIFORM
from roundel.strategies.sites import (
    Aggregator,
    Broadcast,
    Codec,
    Finisher,
    Selector,
    ServerTransform,
    Solver,
    Synchronous,
    Weigher,
)
from roundel.strategies.weighers import BY_EXAMPLES

SiteT = TypeVar("SiteT")

IMPULSE = "impulse"
"""Trait of local training whose displacement can be turned back into a gradient.

SGD has it, as long as each phase moves every tensor. A solver that fills `Trained.impulse` has it
if its part says so.
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A bundle of contributions to sites.

    A site that only one part can hold (the selector, say) is None where the part has no say in it.
    Sites that chain (corrections, codecs, server transforms) run in the order of composition.

    Attributes:
        name: What to call it in messages, with its arguments.
        selector: Who takes part.
        pacing: How long a round waits.
        phases: Rewrites the experiment's local training, into several phases say.
        solver: Replaces the learning loop.
        corrections: Change gradients.
        loss_terms: Add to the loss.
        finishers: Run after local training.
        codecs: Change what is sent; decoded in reverse order.
        weigher: Gives updates their weights.
        aggregators: Channel to its aggregator.
        server: Links of the server's chain.
        broadcast: Channel to what fills it, for channels sent down besides the parameters.
        channel_sizes: Lengths of channels that are not as long as the shared trainable parameters.
        root: Whether the server trains on root examples of its own.
        provides: Traits of this part, which others may need or refuse.
        needs: Trait to the remedy if nothing provides it.
        refuses: Trait to the reason and remedy if another part provides it.
    """

    name: str
    selector: Selector | None = None
    pacing: Synchronous | None = None
    phases: Callable[[Sequence[Phase]], Sequence[Phase]] | None = None
    solver: Solver | None = None
    corrections: tuple[Correction, ...] = ()
    loss_terms: tuple[LossTerm, ...] = ()
    finishers: tuple[Finisher, ...] = ()
    codecs: tuple[Codec, ...] = ()
    weigher: Weigher | None = None
    aggregators: Mapping[str, Aggregator] = field(default_factory=dict[str, Aggregator])
    server: tuple[ServerTransform, ...] = ()
    broadcast: Mapping[str, Broadcast] = field(default_factory=dict[str, Broadcast])
    channel_sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    root: bool = False
    provides: frozenset[str] = frozenset()
    needs: Mapping[str, str] = field(default_factory=dict[str, str])
    refuses: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def traits(self) -> frozenset[str]:
        """Its own traits and those of its aggregators."""
        return self.provides.union(*(a.traits for a in self.aggregators.values()))


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A federated algorithm, complete: what `compose` returns.

    The attributes are the sites of its parts put together; see `Part`.
    """

    name: str
    parts: tuple[Part, ...]
    selector: Selector
    pacing: Synchronous | None
    rewrites: tuple[Callable[[Sequence[Phase]], Sequence[Phase]], ...]
    solver: Solver | None
    corrections: tuple[Correction, ...]
    loss_terms: tuple[LossTerm, ...]
    finishers: tuple[Finisher, ...]
    codecs: tuple[Codec, ...]
    weigher: Weigher
    aggregators: Mapping[str, Aggregator]
    server: tuple[ServerTransform, ...]
    broadcast: Mapping[str, Broadcast]
    channel_sizes: Mapping[str, int]
    root: bool

    def channels(self, spec: ParamSpec) -> dict[str, tuple[int, torch.dtype]]:
        """Return every channel of an update with its length and dtype."""
        buffers, trainable = spec.shared_buffers, spec.shared_trainable
        length = trainable.stop - trainable.start
        sizes = {c: (self.channel_sizes.get(c, length), spec.dtype) for c in self.aggregators}
        sizes[BUFFERS] = (buffers.stop, spec.dtype)
        sizes[INTEGERS] = (spec.integer_size, torch.int64)
        return {channel: kind for channel, kind in sizes.items() if kind[0] > 0}

    def stateful(self, spec: ParamSpec) -> bool:
        """Tell whether clients keep state from round to round."""
        personal = spec.personal.stop > spec.personal.start
        return personal or bool(self.finishers or self.codecs or self.solver)

    def phases(self, phases: Sequence[Phase]) -> Sequence[Phase]:
        """Return the local training of this strategy, given the experiment's.

        Raises:
            CompositionError: A part needs a trait that the local training lacks.
        """
        for rewrite in self.rewrites:
            phases = rewrite(phases)
        plain = all(p.optimizer.name.lower() == "sgd" and p.trains is None for p in phases)
        provided = {IMPULSE} if plain and self.solver is None else set[str]()
        _check_needs(self.parts, provided)
        return phases


def compose(*items: Part | Strategy, name: str | None = None) -> Strategy:
    """Put parts together.

    Args:
        items: Parts, or strategies whose parts are taken over, in order.
        name: What to call the result; by default the names joined by ``+``.

    Raises:
        CompositionError: Two parts hold the same site or refuse each other.
    """
    parts = tuple(
        part for item in items for part in (item.parts if isinstance(item, Strategy) else (item,))
    )
    _check_refusals(parts)
    transforms = tuple(link for part in parts for link in part.server)
    _check_unique("server transform", [(link.name, p) for p in parts for link in p.server])
    _check_unique("aggregator of channel", [(c, p) for p in parts for c in p.aggregators])
    _check_unique("broadcast channel", [(c, p) for p in parts for c in p.broadcast])
    _check_sizes(parts)
    aggregators: dict[str, Aggregator] = {
        PARAMS: Mean(),
        BUFFERS: Mean(by_arrivals=True),
        INTEGERS: Maximum(),
    }
    for part in parts:
        aggregators.update(part.aggregators)
    return Strategy(
        name=name or "+".join(part.name for part in parts) or "fedavg",
        parts=parts,
        selector=_only("selector", [(p, p.selector) for p in parts]) or UNIFORM,
        pacing=_only("pacing", [(p, p.pacing) for p in parts]),
        rewrites=tuple(part.phases for part in parts if part.phases is not None),
        solver=_only("solver", [(p, p.solver) for p in parts]),
        corrections=tuple(c for part in parts for c in part.corrections),
        loss_terms=tuple(t for part in parts for t in part.loss_terms),
        finishers=tuple(f for part in parts for f in part.finishers),
        codecs=tuple(c for part in parts for c in part.codecs),
        weigher=_only("weigher", [(p, p.weigher) for p in parts]) or BY_EXAMPLES,
        aggregators=aggregators,
        server=transforms,
        broadcast={channel: fill for part in parts for channel, fill in part.broadcast.items()},
        channel_sizes={c: size for part in parts for c, size in part.channel_sizes.items()},
        root=any(part.root for part in parts),
    )


def _only(site: str, held: Sequence[tuple[Part, SiteT | None]]) -> SiteT | None:
    """Return what the one part that holds a site puts there, or None."""
    holders = [(part, value) for part, value in held if value is not None]
    if len(holders) > 1:
        first, second = holders[0][0].name, holders[1][0].name
        raise CompositionError(
            f"{first} and {second} both set the {site}: leave it out of one of them"
        )
    return holders[0][1] if holders else None


def _check_unique(what: str, named: Sequence[tuple[str, Part]]) -> None:
    seen: dict[str, Part] = {}
    for name, part in named:
        if name in seen:
            raise CompositionError(
                f"{seen[name].name} and {part.name} both bring the {what} {name!r}: "
                "use one of them, or give one another name"
            )
        seen[name] = part


def _check_sizes(parts: Sequence[Part]) -> None:
    aggregated = {channel for part in parts for channel in part.aggregators}
    for part in parts:
        for channel in part.channel_sizes:
            if channel not in aggregated:
                raise CompositionError(
                    f"{part.name} gives channel {channel!r} a size, and no part aggregates it: "
                    "name its aggregator too"
                )


def _check_refusals(parts: Sequence[Part]) -> None:
    for part in parts:
        for other in parts:
            for trait in sorted(other.traits & part.refuses.keys()):
                if other is not part:
                    raise CompositionError(
                        f"{part.name} and {other.name} cannot be combined: {part.refuses[trait]}"
                    )


def _check_needs(parts: Sequence[Part], provided: set[str]) -> None:
    available = provided.union(*(part.traits for part in parts))
    for part in parts:
        for trait, remedy in part.needs.items():
            if trait not in available:
                raise CompositionError(f"{part.name} needs more than it gets: {remedy}")
