"""Small parts, one for each seam of a strategy: what a new algorithm would plug in.

Each is the core of a published algorithm, cut down to what its site needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from roundel.core.job import Batch, LocalContext, LocalJob, Phase, Trained
from roundel.core.learning import Learner
from roundel.core.messages import PARAMS
from roundel.core.metrics import Metrics
from roundel.core.params import Entry
from roundel.core.seeds import sample
from roundel.strategies.aggregators import Mean, OverRows
from roundel.strategies.compose import Part
from roundel.strategies.sites import (
    Aggregate,
    Codec,
    Decoding,
    Finished,
    RoundContext,
    Selection,
    Selector,
    ServerTransform,
    State,
    Weigher,
    stateless,
)

# ---- who


def cohorts(*cohorts: Sequence[int]) -> Part:
    """Name the cohort of every round."""
    selector = Selector(name="listed", select=lambda selection: cohorts[selection.round - 1])
    return Part(name="cohorts", selector=selector)


def over_selection(extra: int) -> Part:
    """Ask more clients than are needed; the first to answer count."""

    def select(selection: Selection) -> list[int]:
        size = min(selection.population, selection.size + extra)
        return sample(selection.population, size, selection.seed)

    return Part(name=f"over_selection({extra})", selector=Selector(name="more", select=select))


# ---- local work


def nested(*, pull: float, lr: float, inner_lr: float, inner_steps: int, outer: int) -> Part:
    """Solve an inner problem for each outer step, as pFedMe does.

    ``theta`` minimises ``F(theta) + pull / 2 ||theta - w||**2``, then
    ``w -= lr * pull * (w - theta)``.
    """

    def solve(learner: Learner, job: LocalJob) -> Trained:
        learner.load(job.context.sent, job.integers, training=True)
        where = learner.spec.trainable
        w = learner.vector[where].clone()
        losses = 0.0
        for _ in range(outer):
            learner.vector[where] = w
            for _ in range(inner_steps):
                loss, gradient = learner.gradient(job.examples, job)
                theta = learner.vector[where]
                learner.vector[where] = theta - inner_lr * (gradient + pull * (theta - w))
                losses += float(loss) * len(job.examples)
            w = w - lr * pull * (w - learner.vector[where])
        learner.vector[where] = w
        steps = outer * inner_steps
        return Trained(
            vector=learner.vector.clone(),
            integers=learner.integers(),
            metrics=Metrics({"loss": losses}, steps * len(job.examples)),
            steps=(steps,),
        )

    return Part(name="nested", solver=solve)


def head_then_body(is_head: Callable[[Entry], bool]) -> Part:
    """Train the head alone, then the rest alone, as FedRep does."""

    def rewrite(phases: Sequence[Phase]) -> Sequence[Phase]:
        return [
            replace(phase, trains=trains)
            for phase in phases
            for trains in (is_head, lambda entry: not is_head(entry))
        ]

    return Part(name="head_then_body", phases=rewrite)


def pull_as_loss(mu: float) -> Part:
    """Add ``mu / 2 ||x - x_sent||**2`` to the loss instead of its gradient to the gradient."""

    def term(batch: Batch) -> Tensor:
        sent = batch.context.spec.views(batch.context.sent)
        gaps = [(value - sent[name]).square().sum() for name, value in batch.params.items()]
        return mu / 2 * torch.stack(gaps).sum()

    return Part(name=f"pull_as_loss({mu})", loss_terms=(term,))


def first_loss() -> Part:
    """Send the mean training loss in a channel of its own and scale the step by its mean."""

    def finish(trained: Trained, context: LocalContext) -> Finished:
        loss = trained.metrics.means()["loss"]
        return Finished(channels={"loss": context.sent.new_full((1,), loss)})

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        return {PARAMS: aggregate["loss"] * aggregate[PARAMS]}, state

    return Part(
        name="first_loss",
        finishers=(finish,),
        aggregators={"loss": Mean()},
        channel_sizes={"loss": 1},
        server=(ServerTransform(name="by_loss", init=stateless, update=update),),
    )


# ---- on the way


def affine(factor: float, shift: float) -> Part:
    """Send ``factor * x + shift``."""

    def encode(
        channels: Mapping[str, Tensor], context: LocalContext, seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        return {**channels, PARAMS: factor * channels[PARAMS] + shift}, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        return {**channels, PARAMS: (channels[PARAMS] - shift) / factor}

    return Part(name="affine", codecs=(Codec(name="affine", encode=encode, decode=decode),))


def half() -> Part:
    """Send parameters in half precision."""

    def encode(
        channels: Mapping[str, Tensor], context: LocalContext, seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        return {**channels, PARAMS: channels[PARAMS].half()}, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        _, dtype = decoding.kinds[PARAMS]
        return {**channels, PARAMS: channels[PARAMS].to(dtype)}

    return Part(name="half", codecs=(Codec(name="half", encode=encode, decode=decode),))


def largest_with_feedback() -> Part:
    """Send the largest element alone and keep the rest for the next round."""

    def encode(
        channels: Mapping[str, Tensor], context: LocalContext, seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        wanted = channels[PARAMS] + context.state.get("feedback.rest", 0.0)
        sent = torch.zeros_like(wanted)
        place = wanted.abs().argmax()
        sent[place] = wanted[place]
        return {**channels, PARAMS: sent}, {"feedback.rest": wanted - sent}

    codec = Codec(name="largest", encode=encode, decode=lambda channels, _kinds: channels)
    return Part(name="largest_with_feedback", codecs=(codec,))


# ---- on the server


def out_of(clients: float) -> Part:
    """Divide sums by a fixed number, whoever has answered, as differential privacy asks."""
    weigher = Weigher(name="fixed", weigh=lambda _update: 1.0, denominator=lambda _: clients)
    return Part(name=f"out_of({clients})", weigher=weigher)


def median() -> Part:
    """Take the coordinatewise median of the parameters' updates."""

    def rule(rows: Tensor, weights: Tensor, context: RoundContext) -> Tensor:
        return rows.median(dim=0).values

    return Part(name="median", aggregators={PARAMS: OverRows("median", rule)})


def sums_only() -> Part:
    """Live with nothing that looks at single updates, as secure aggregation must."""
    return Part(
        name="sums_only",
        provides=frozenset({"masked"}),
        refuses={"set": "the server never sees single updates; use an aggregator of sums"},
    )


def trusted_root() -> Part:
    """Weigh updates by how far they agree with training on root examples, as FLTrust does."""

    def rule(rows: Tensor, weights: Tensor, context: RoundContext) -> Tensor:
        assert context.root is not None
        root = context.root[PARAMS].to(rows.dtype)
        norms = rows.norm(dim=1)
        trust = (rows @ root / (norms * root.norm())).clamp(min=0)
        scaled = rows * (root.norm() / norms).unsqueeze(1)
        return trust @ scaled / trust.sum()

    return Part(name="trusted_root", root=True, aggregators={PARAMS: OverRows("trust", rule)})
