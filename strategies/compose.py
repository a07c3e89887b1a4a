"""Strategies are compositions of parts; contradictions are found when they are built.

A `Part` contributes to some sites and says what it provides, needs and cannot live with. `compose`
puts parts side by side and returns a `Strategy`. Nothing inherits from anything: FedProx is FedAvg
with one more part.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from roundel.core.errors import CompositionError
from roundel.core.job import Correction, LossTerm, Phase
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS
from roundel.core.params import ParamSpec
from roundel.core.task import Task
from roundel.strategies.aggregators import (
    LowerMedian,
    Maximum,
    Mean,
    OverRows,
    Rows,
    after_mixing,
)
from roundel.strategies.sampling import UNIFORM
from roundel.strategies.sites import (
    Aggregator,
    Broadcast,
    Codec,
    Decoding,
    Derived,
    Evaluated,
    Finisher,
    Mixer,
    Privacy,
    Report,
    Selector,
    ServerTransform,
    Settler,
    SideWork,
    Solver,
    State,
    Synchronous,
    Weigher,
)
from roundel.strategies.weighers import BY_EXAMPLES

SiteT = TypeVar("SiteT")

IMPULSE = "impulse"
"""Trait of local training whose displacement can be turned back into a gradient: SGD has it.

A solver that fills `Trained.impulse` has it if its part says so.
"""

REACH = "reach"
"""Trait of local training that knows how far a constant gradient would have moved it.

Every optimizer has it, and a solver that fills `Trained.impulse`, if its part says so.
"""

CHANNELS = "channels"
"""Trait of parts that aggregate channels besides the parameters."""

RESCALES = "rescales"
"""Trait of parts whose clients send something else than their delta as parameters."""

ASKS = "asks"
"""Trait of parts whose selector asks clients about their data; see `Selector.asks`."""

READS_MEAN = "reads mean"
"""Trait of parts whose server link reads the clients' mean, and so comes before those that change
it."""

LOSS = "loss"
GRADIENT = "gradient"
MEASURES = frozenset({LOSS, GRADIENT})
"""What can be measured at a client before it trains: see `Trained.loss_before` and
`Trained.gradient_before`."""


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
        pull: Sum of the factors by which its corrections pull linearly towards what was sent:
            ``g' = g + pull (x - x_sent)`` counts `pull`. It shortens the optimizer's reach.
        loss_terms: Add to the loss.
        measures: What of `MEASURES` clients find out about the received model before they train.
        finishers: Run after local training.
        settlers: Run after the codecs, on what the server will make of the update.
        innovations: Channels of which codecs must not remember what they left out; see
            `LocalContext.innovations`.
        side_work: Train something else beside.
        codecs: Change what is sent; decoded in reverse order.
        weigher: Gives updates their weights.
        derived: Channels that the server computes from each update; they need an aggregator.
        mixers: Mix the rows of an update's channels before a rule sees them.
        rule: Takes the place of the mean in every channel of floats; counters then take their
            lower median.
        aggregators: Channel to its aggregator.
        server: Links of the server's chain.
        broadcast: Channel to what fills it, for channels sent down besides the parameters.
        report: What is evaluated and saved in place of the parameters.
        channel_sizes: Lengths of channels that are not as long as the shared trainable parameters.
        root: Whether the server trains on root examples of its own.
        model: Changes the task's model before anything is trained, by adding adapters say; the
            names that it adds are those that `fresh` knows.
        fresh: Tells from a name whether `model` has added that tensor.
        personal: Names of a model's tensors that stay with the client.
        evaluated: What clients evaluate in place of what they received.
        tuning: From the experiment's local training to what each client does with that, on its own
            examples, right before it evaluates it; nothing of that is kept.
        privacy: The guarantee it gives.
        packages: What is not ours and figures depend on: names of packages with their versions.
        provides: Traits of this part, which others may need or refuse.
        needs: Trait to the remedy if nothing provides it.
        refuses: Trait to the reason and remedy if another part provides it.
        refuses_after: The same for parts that come later in the composition.
    """

    name: str
    selector: Selector | None = None
    pacing: Synchronous | None = None
    phases: Callable[[Sequence[Phase]], Sequence[Phase]] | None = None
    solver: Solver | None = None
    corrections: tuple[Correction, ...] = ()
    pull: float = 0.0
    loss_terms: tuple[LossTerm, ...] = ()
    measures: frozenset[str] = frozenset()
    finishers: tuple[Finisher, ...] = ()
    settlers: tuple[Settler, ...] = ()
    innovations: frozenset[str] = frozenset()
    side_work: tuple[SideWork, ...] = ()
    codecs: tuple[Codec, ...] = ()
    weigher: Weigher | None = None
    derived: Mapping[str, Derived] = field(default_factory=dict[str, Derived])
    mixers: tuple[Mixer, ...] = ()
    rule: OverRows | None = None
    aggregators: Mapping[str, Aggregator] = field(default_factory=dict[str, Aggregator])
    server: tuple[ServerTransform, ...] = ()
    broadcast: Mapping[str, Broadcast] = field(default_factory=dict[str, Broadcast])
    report: Report | None = None
    channel_sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    root: bool = False
    model: Callable[[nn.Module], nn.Module] | None = None
    fresh: Callable[[str], bool] | None = None
    personal: Callable[[nn.Module], Collection[str]] | None = None
    evaluated: Evaluated | None = None
    tuning: Callable[[Sequence[Phase]], Sequence[Phase]] | None = None
    privacy: Privacy | None = None
    packages: Mapping[str, str] = field(default_factory=dict[str, str])
    provides: frozenset[str] = frozenset()
    needs: Mapping[str, str] = field(default_factory=dict[str, str])
    refuses: Mapping[str, str] = field(default_factory=dict[str, str])
    refuses_after: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def traits(self) -> frozenset[str]:
        """Its own traits and those that follow from what it contributes."""
        own = {"set"} if self.rule or self.mixers else set[str]()
        if self.aggregators.keys() - {PARAMS, BUFFERS, INTEGERS}:
            own.add(CHANNELS)
        if self.selector is not None and self.selector.asks:
            own.add(ASKS)
        return self.provides.union(own, *(a.traits for a in self.aggregators.values()))


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
    pull: float
    loss_terms: tuple[LossTerm, ...]
    measures: frozenset[str]
    finishers: tuple[Finisher, ...]
    settlers: tuple[Settler, ...]
    innovations: frozenset[str]
    side_work: tuple[SideWork, ...]
    codecs: tuple[Codec, ...]
    weigher: Weigher
    derived: Mapping[str, Derived]
    aggregators: Mapping[str, Aggregator]
    server: tuple[ServerTransform, ...]
    broadcast: Mapping[str, Broadcast]
    report: Report | None
    channel_sizes: Mapping[str, int]
    root: bool
    evaluated: Evaluated | None
    tuning: Callable[[Sequence[Phase]], Sequence[Phase]] | None
    privacy: Privacy | None

    @cached_property
    def vectors(self) -> frozenset[str]:
        """The channels that codecs change: those as long as the shared trainable parameters."""
        others = {BUFFERS, INTEGERS, *self.channel_sizes, *self.derived}
        return frozenset(self.aggregators.keys() - others)

    @cached_property
    def alone(self) -> bool:
        """Whether one link does all that the server does with updates."""
        return any(link.alone for link in self.server)

    @cached_property
    def noised(self) -> frozenset[str]:
        """The channels to whose aggregate the server adds noise."""
        drawn = [link.noise.channels for link in self.server if link.noise is not None]
        return frozenset(channel for channels in drawn for channel in channels)

    @cached_property
    def wants_impulse(self) -> bool:
        """Whether a part reads `Trained.impulse`."""
        return any(part.needs.keys() & {IMPULSE, REACH} for part in self.parts)

    def is_encoded(self, channel: str) -> bool:
        """Tell whether a channel on its way belongs to the codecs."""
        return channel.split("/", 1)[0] in self.vectors

    def decoded(self, sent: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        """Return an update's channels as they are aggregated, from those that were sent.

        Args:
            sent: Channel to tensor; a client may have sent anything.
            decoding: What codecs may look at.

        Raises:
            ParameterError: A codec of ours cannot read what was sent; others raise what they like.
        """
        if not self.codecs:
            return sent
        plain = {name: value for name, value in sent.items() if not self.is_encoded(name)}
        coded: Mapping[str, Tensor] = {n: v for n, v in sent.items() if self.is_encoded(n)}
        for codec in reversed(self.codecs):
            coded = codec.decode(coded, decoding)
        return {**plain, **coded}

    def decoding(self, spec: ParamSpec, broadcast: Mapping[str, Tensor]) -> Decoding:
        """Return what codecs may look at while they decode.

        Args:
            spec: The model's layout.
            broadcast: What the cohort was sent besides the parameters.
        """
        return Decoding(spec=spec, kinds=self.channels(spec), broadcast=broadcast)

    def channels(self, spec: ParamSpec) -> dict[str, tuple[int, torch.dtype]]:
        """Return every channel of an update, once it is decoded, with its length and dtype."""
        sizes = {c: (self._length(c, spec), spec.dtype) for c in self.aggregators}
        sizes[BUFFERS] = (spec.shared_buffers.stop, spec.dtype)
        sizes[INTEGERS] = (spec.shared_integers.stop, torch.int64)
        return {c: kind for c, kind in sizes.items() if kind[0] > 0 and c not in self.derived}

    def aggregated(self, spec: ParamSpec) -> dict[str, tuple[int, torch.dtype]]:
        """Return the same for every channel that is aggregated, derived ones included."""
        own = {c: (self._length(c, spec), torch.float64) for c in self.derived}
        return {**self.channels(spec), **own}

    def _length(self, channel: str, spec: ParamSpec) -> int:
        where = spec.shared_trainable
        return self.channel_sizes.get(channel, where.stop - where.start)

    def check_cohort(self, size: int) -> None:
        """Find out whether rules over updates can work at all with so few clients a round.

        Raises:
            CompositionError: One cannot, even if all of them answer.
        """
        if self.selector.poisson:  # any number may take part
            return
        for aggregator in self.aggregators.values():
            if isinstance(aggregator, OverRows):
                aggregator.check_most(size)
            elif isinstance(aggregator, Rows) and aggregator.check is not None:
                aggregator.check(size)

    def least_updates(self, most: int) -> int:
        """Return the fewest updates of a round that its rules over updates may be able to do with.

        With more of them a rule may still be unable to work: a fraction of one more may round up.

        Args:
            most: How many may arrive.

        Returns:
            At most `most`; 0 if no rule needs any, or that is not known beforehand.
        """
        if self.selector.poisson:  # any number may take part
            return 0
        rules = (each for each in self.aggregators.values() if isinstance(each, OverRows))
        return max((rule.least(most) for rule in rules), default=0)

    def missing(self, states: Mapping[str, State]) -> str:
        """Say why a run cannot go on from the states of its server transforms; empty if it can."""
        found = (link.missing(states.get(link.name, {})) for link in self.server)
        return next(filter(None, found), "")

    def stateful(self, spec: ParamSpec) -> bool:
        """Tell whether clients keep state from round to round."""
        personal = spec.personal.stop > spec.personal.start
        codecs = any(codec.stateful for codec in self.codecs)
        own = self.finishers or self.settlers or self.solver or self.side_work
        return personal or codecs or bool(own)

    def adapted(self, task: Task) -> Task:
        """Return the task with the model and the personal layers that this strategy asks for."""
        for part in self.parts:
            if part.model is not None:
                task = replace(task, model=partial(_changed, task.model, part.model))
            if part.fresh is not None:
                task = replace(task, fresh=(*task.fresh, part.fresh))
            if part.personal is not None:
                task = replace(task, private=(*task.private, part.personal))
        return task

    def phases(self, phases: Sequence[Phase]) -> Sequence[Phase]:
        """Return the local training of this strategy, given the experiment's.

        Raises:
            CompositionError: A part needs a trait that the local training lacks.
        """
        for rewrite in self.rewrites:
            phases = rewrite(phases)
        provided: set[str] = set()
        if self.solver is None:
            provided.add(REACH)
            if all(phase.optimizer.name.lower() == "sgd" for phase in phases):
                provided.add(IMPULSE)
        _check_needs(self.parts, provided)
        return phases


def _changed(make: Callable[[], nn.Module], change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return change(make())


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
    _check_alone(parts)
    privacy = _only("privacy guarantee", [(p, p.privacy) for p in parts])
    links = [link for part in parts for link in part.server]
    _check_unique("server transform", [(link.name, p) for p in parts for link in p.server])
    _check_unique("aggregator of channel", [(c, p) for p in parts for c in p.aggregators])
    _check_unique("broadcast channel", [(c, p) for p in parts for c in p.broadcast])
    _check_sizes(parts)
    _check_rules(parts)
    aggregators: dict[str, Aggregator] = {
        PARAMS: Mean(),
        BUFFERS: Mean(by_arrivals=True),
        INTEGERS: Maximum(),
    }
    for part in parts:
        aggregators.update(part.aggregators)
    rule = _only("aggregation rule", [(p, p.rule) for p in parts])
    mixers = tuple(mixer for part in parts for mixer in part.mixers)
    if mixers:
        rule = after_mixing(rule.name if rule else "mean", mixers, rule)
        aggregators = {
            c: after_mixing(a.name, mixers, a) if isinstance(a, OverRows) else a
            for c, a in aggregators.items()
        }
    if rule is not None:
        aggregators = {c: _by_rule(a, rule) for c, a in aggregators.items()}
    return Strategy(
        name=name or "+".join(part.name for part in parts) or "fedavg",
        parts=parts,
        selector=_only("selector", [(p, p.selector) for p in parts]) or UNIFORM,
        pacing=_only("pacing", [(p, p.pacing) for p in parts]),
        rewrites=tuple(part.phases for part in parts if part.phases is not None),
        solver=_only("solver", [(p, p.solver) for p in parts]),
        corrections=tuple(c for part in parts for c in part.corrections),
        pull=sum(part.pull for part in parts),
        loss_terms=tuple(t for part in parts for t in part.loss_terms),
        measures=frozenset[str]().union(*(part.measures for part in parts)),
        finishers=tuple(f for part in parts for f in part.finishers),
        settlers=tuple(s for part in parts for s in part.settlers),
        innovations=frozenset[str]().union(*(part.innovations for part in parts)),
        side_work=tuple(work for part in parts for work in part.side_work),
        codecs=tuple(c for part in parts for c in part.codecs),
        weigher=_only("weigher", [(p, p.weigher) for p in parts]) or BY_EXAMPLES,
        derived={channel: how for part in parts for channel, how in part.derived.items()},
        aggregators=aggregators,
        server=tuple(sorted(links, key=lambda link: link.noise is None)),
        broadcast={channel: fill for part in parts for channel, fill in part.broadcast.items()},
        report=_only("reported model", [(p, p.report) for p in parts]),
        channel_sizes={c: size for part in parts for c, size in part.channel_sizes.items()},
        root=any(part.root for part in parts),
        evaluated=_only("model that clients evaluate", [(p, p.evaluated) for p in parts]),
        tuning=_only("training before evaluations", [(p, p.tuning) for p in parts]),
        privacy=privacy,
    )


def _only(site: str, held: Sequence[tuple[Part, SiteT | None]]) -> SiteT | None:
    """Return what the parts that hold a site put there, or None; they must agree."""
    holders = [(part, value) for part, value in held if value is not None]
    for other, value in holders[1:]:
        if value != holders[0][1]:
            raise CompositionError(
                f"{holders[0][0].name} and {other.name} both set the {site}: leave it out of one "
                "of them"
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
        for channel in (*part.channel_sizes, *part.derived):
            if channel not in aggregated:
                raise CompositionError(
                    f"{part.name} speaks of channel {channel!r}, and no part aggregates it: "
                    "name its aggregator too"
                )


def _check_rules(parts: Sequence[Part]) -> None:
    """Raise `CompositionError` if a rule of one part would leave parameters to another's."""
    own = [p for p in parts if not isinstance(p.aggregators.get(PARAMS, Mean()), Mean)]
    for part in own:
        for other in parts:
            if other is not part and other.rule is not None:
                raise CompositionError(
                    f"{part.name} and {other.name} cannot be combined: each says how parameters "
                    "are aggregated; leave one of them out"
                )


def _by_rule(aggregator: Aggregator, rule: OverRows) -> Aggregator:
    """Return what takes an aggregator's place where a rule takes that of the mean."""
    if isinstance(aggregator, Mean):
        return rule
    return LowerMedian() if isinstance(aggregator, Maximum) else aggregator


def _check_alone(parts: Sequence[Part]) -> None:
    """Raise `CompositionError` where one part does all of the server's work, and another some."""
    for part in parts:
        if not any(link.alone for link in part.server):
            continue
        for other in parts:
            work = (other.server, other.weigher, other.rule, other.mixers, other.aggregators)
            if other is not part and any((*work, other.derived, other.root, other.privacy)):
                raise CompositionError(
                    f"{part.name} and {other.name} cannot be combined: {part.name} does everything "
                    f"with updates that a server does, and {other.name} would do a part of it; "
                    "leave one of them out"
                )


def _check_refusals(parts: Sequence[Part]) -> None:
    for place, part in enumerate(parts):
        for other in parts:
            for trait in sorted(other.traits & part.refuses.keys()):
                if other is not part:
                    raise CompositionError(
                        f"{part.name} and {other.name} cannot be combined: {part.refuses[trait]}"
                    )
        for later in parts[place + 1 :]:
            for trait in sorted(later.traits & part.refuses_after.keys()):
                raise CompositionError(
                    f"{later.name} cannot come after {part.name}: {part.refuses_after[trait]}"
                )


def _check_needs(parts: Sequence[Part], provided: set[str]) -> None:
    available = provided.union(*(part.traits for part in parts))
    for part in parts:
        for trait, remedy in part.needs.items():
            if trait not in available:
                raise CompositionError(f"{part.name} needs more than it gets: {remedy}")
