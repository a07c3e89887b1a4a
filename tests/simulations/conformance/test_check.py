"""The check of a strategy finds real mistakes, and says which."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import Batch, LocalContext, LocalJob, Phase, Trained
from roundel.core.learning import Learner
from roundel.core.messages import PARAMS, ClientUpdate
from roundel.simulations.conformance import Verdict, check
from roundel.strategies.aggregators import Mean, OverRows
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import (
    Aggregate,
    Codec,
    Decoding,
    Finished,
    RoundContext,
    Selector,
    ServerTransform,
    State,
    Weigher,
    stateless,
)


def verdicts(
    make: Callable[..., Part | Strategy], *laws: str, **knobs: object
) -> dict[str, Verdict]:
    return {verdict.law: verdict for verdict in check(make, knobs, laws)}


def of(make: Callable[..., Any], outcome: str, *laws: str) -> dict[str, str]:
    """The laws with this outcome and the reasons."""
    return {law: v.reason for law, v in verdicts(make, *laws).items() if v.outcome == outcome}


def link(update: Callable[[Aggregate, State, Tensor, RoundContext], Any], **more: Any) -> Part:
    return Part(
        name="mine",
        server=(ServerTransform(name="mine", init=stateless, update=update), *more.values()),
    )


def correction(change: Callable[[Tensor, Tensor, LocalContext], Any]) -> Part:
    return Part(name="mine", corrections=(change,))


def finisher(finish: Callable[[Trained, LocalContext], Any], **more: Any) -> Part:
    return Part(name="mine", finishers=(finish,), **more)


# ---- strategies with one mistake each


def overwrites_its_aggregate() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        aggregate[PARAMS].mul_(0.5)
        return aggregate, state

    return link(update)


def overwrites_its_gradient() -> Part:
    return correction(lambda gradient, point, context: gradient.add_(0.1))


def overwrites_what_it_received() -> Part:
    def term(batch: Batch) -> Tensor:
        batch.context.sent.add_(1.0)
        return batch.outputs.sum() * 0.0

    return Part(name="mine", loss_terms=(term,))


@dataclass
class InOrder:
    """Weighs those more that come late."""

    size: int
    values: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.values.append(value * len(self.values))

    def merge(self, other: "InOrder") -> None:
        self.values += other.values

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        return torch.stack(self.values).mean(dim=0) if self.values else torch.zeros(self.size)


@dataclass(frozen=True)
class Impatient:
    traits: frozenset[str] = frozenset({"sum"})

    def start(self, size: int, dtype: torch.dtype) -> Any:
        return InOrder(size)


def looks_at_the_order_of_arrival() -> Part:
    return Part(name="mine", aggregators={PARAMS: Impatient()})


@dataclass
class Scaled:
    """Multiplies a mean, and may forget other workers."""

    inner: Any
    factor: float = 1.0
    merges: bool = True

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.inner.add(client_id, value, weight)

    def merge(self, other: "Scaled") -> None:
        if self.merges:
            self.inner.merge(other.inner)

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        return self.factor * self.inner.finish(denominator, context)


class Double(Mean):
    def start(self, size: int, dtype: torch.dtype) -> Any:
        return Scaled(super().start(size, dtype), factor=2.0)


class Alone(Mean):
    def start(self, size: int, dtype: torch.dtype) -> Any:
        return Scaled(super().start(size, dtype), merges=False)


def doubles_the_mean() -> Part:
    return Part(name="mine", aggregators={PARAMS: Double()})


def loses_what_other_workers_have() -> Part:
    return Part(name="mine", aggregators={PARAMS: Alone()})


def keeps_its_velocity_to_itself() -> Part:
    velocity: list[Tensor] = []

    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        velocity[:] = [0.9 * sum(velocity, torch.zeros_like(params)) + aggregate[PARAMS]]
        return {**aggregate, PARAMS: velocity[0]}, state

    return link(update)


def counts_its_batches() -> Part:
    batches = [0]

    def term(batch: Batch) -> Tensor:
        batches[0] += 1
        return batch.outputs.square().mean() * batches[0] / 100

    return Part(name="mine", loss_terms=(term,))


def draws_at_random() -> Part:
    return correction(lambda g, point, context: g + 0.01 * torch.randn_like(g))


def returns_numpy() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        return {PARAMS: aggregate[PARAMS].numpy()}, state

    return link(update)


def returns_a_dictionary() -> Part:
    return finisher(lambda trained, context: {"state": {}})


def changes_the_dtype() -> Part:
    return correction(lambda gradient, point, context: gradient.half())


def forgets_its_state() -> Part:
    def finish(trained: Trained, context: LocalContext) -> Finished:
        before = context.state.get("mine.count")
        count = context.sent.new_zeros(()) if before is None else before
        return Finished(channels={"count": (count + 1).reshape(1)})

    return finisher(finish, aggregators={"count": Mean()}, channel_sizes={"count": 1})


def keeps_its_state_every_other_round() -> Part:
    def finish(trained: Trained, context: LocalContext) -> Finished:
        return Finished(state={} if context.state else {"mine.last": trained.vector})

    return finisher(finish)


def keeps_its_state_under_any_name() -> Part:
    return finisher(lambda trained, context: Finished(state={"last": trained.vector}))


def divides_by_the_others() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        return {**aggregate, PARAMS: aggregate[PARAMS] / (context.completed - 1)}, state

    return link(update)


def divides_by_all() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        return {**aggregate, PARAMS: aggregate[PARAMS] * (1.0 / context.completed)}, state

    return link(update)


def has_the_norm_of_all_clients() -> Part:
    return correction(lambda gradient, point, context: gradient / (1.0 + gradient.norm()))


def has_an_element_of_the_first_client() -> Part:
    return correction(lambda gradient, point, context: gradient * point[0])


def sums_over_all_clients() -> Part:
    def finish(trained: Trained, context: LocalContext) -> Finished:
        moved = trained.vector - context.sent
        return Finished(channels={"norm": moved.norm().reshape(1)})

    return finisher(finish, aggregators={"norm": Mean()}, channel_sizes={"norm": 1})


def settles_the_sum_over_all_clients() -> Part:
    def settle(channels: Mapping[str, Tensor], context: LocalContext) -> State:
        return {"mine.norm": channels[PARAMS].norm().reshape(1)}

    return Part(name="mine", settlers=(settle,))


def divides_by_the_length() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        return {**aggregate, PARAMS: aggregate[PARAMS] / aggregate[PARAMS].norm()}, state

    return link(update)


def sends_what_nobody_aggregates() -> Part:
    return finisher(lambda trained, context: Finished(channels={"extra": trained.vector}))


def weighs_by_nothing() -> Part:
    def weigh(update: ClientUpdate) -> float:
        return float(update.num_examples - 5)

    return Part(name="mine", weigher=Weigher(name="mine", weigh=weigh))


def cannot_be_sent() -> Part:
    def encode(channels: Mapping[str, Tensor], context: LocalContext, seed: int) -> Any:
        return {PARAMS: channels[PARAMS].to(torch.complex64)}, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Any:
        return {PARAMS: channels[PARAMS].real.to(decoding.kinds[PARAMS][1])}

    return Part(name="mine", codecs=(Codec(name="mine", encode=encode, decode=decode),))


def decodes_to_less() -> Part:
    def encode(channels: Mapping[str, Tensor], context: LocalContext, seed: int) -> Any:
        return {PARAMS: channels[PARAMS][:-1]}, {}

    codec = Codec(name="mine", encode=encode, decode=lambda channels, decoding: channels)
    return Part(name="mine", codecs=(codec,))


def asks_the_same_twice() -> Part:
    return Part(name="mine", selector=Selector(name="mine", select=lambda s: [0] * s.size))


def pulls_without_a_gradient() -> Part:
    def term(batch: Batch) -> Tensor:
        return sum((w.detach().square().sum() for w in batch.params.values()), torch.zeros(()))

    return Part(name="mine", loss_terms=(term,))


def adds_a_loss_for_each_example() -> Part:
    return Part(name="mine", loss_terms=(lambda batch: batch.outputs.square().sum(dim=1),))


def draws_in_its_loss() -> Part:
    generator = torch.Generator()

    def term(batch: Batch) -> Tensor:
        return batch.outputs.square().mean() * torch.rand((), generator=generator)

    return Part(name="mine", loss_terms=(term,))


def trains_beside_in_place() -> Part:
    def work(learner: Learner, job: LocalJob) -> State:
        job.context.sent.mul_(0.5)
        return {}

    return Part(name="mine", side_work=(work,))


def reports_in_place() -> Part:
    return Part(name="mine", report=lambda states, params: params.mul_(0.5))


def reports_the_mean_with_its_last() -> Part:
    last: list[Tensor] = []

    def report(states: Mapping[str, State], params: Tensor) -> Tensor:
        mean = (params + last[0]) / 2 if last else params
        last[:] = [params.clone()]
        return mean

    return Part(name="mine", report=report)


def reports_nothing_learned() -> Part:
    return Part(name="mine", report=lambda states, params: torch.zeros_like(params))


def counts_its_evaluations() -> Part:
    evaluations = [0]

    def evaluated(vector: Tensor, state: State) -> Tensor:
        evaluations[0] += 1
        return vector * (evaluations[0] % 2)

    return Part(name="mine", evaluated=evaluated)


def evaluates_in_place() -> Part:
    def work(learner: Learner, job: LocalJob) -> State:
        return {"mine.v": job.context.state.get("mine.v", torch.zeros(2)) + 1}

    def evaluated(vector: Tensor, state: State) -> Tensor:
        if "mine.v" in state:
            state["mine.v"].add_(100)
        return vector

    return Part(name="mine", side_work=(work,), evaluated=evaluated)


def evaluates_nan() -> Part:
    return Part(name="mine", evaluated=lambda vector, state: vector * float("nan"))


def tunes_longer_each_time() -> Part:
    steps = [0]

    def tuning(phases: Sequence[Phase]) -> Sequence[Phase]:
        steps[0] += 1
        return [replace(phase, epochs=None, steps=steps[0]) for phase in phases]

    return Part(name="mine", tuning=tuning)


def tunes_with_no_phases() -> Part:
    def tuning(phases: Sequence[Phase]) -> Any:
        return [*phases, "again"]

    return Part(name="mine", tuning=tuning)


def climbs() -> Part:
    return link(lambda aggregate, state, *_: ({**aggregate, PARAMS: -aggregate[PARAMS]}, state))


def forgets_its_velocity() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        velocity = 0.9 * state["v"] + aggregate[PARAMS]
        return {**aggregate, PARAMS: velocity}, {"v": torch.zeros_like(velocity)}

    made = ServerTransform(name="mine", init=lambda p: {"v": torch.zeros_like(p)}, update=update)
    return Part(name="mine", server=(made,))


def explodes() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        return {**aggregate, PARAMS: 1e4 * aggregate[PARAMS]}, state

    return link(update)


def trips() -> Part:
    def update(aggregate: Aggregate, state: State, params: Tensor, context: RoundContext) -> Any:
        return {PARAMS: aggregate["parms"]}, state

    return link(update)


def is_no_part() -> Any:
    return {"name": "mine"}


def returns_nan_for_a_nan() -> Part:
    """Let the median of what has NaN in it be NaN."""

    def encode(channels: Mapping[str, Tensor], context: LocalContext, seed: int) -> Any:
        value = channels[PARAMS]
        return {PARAMS: value.nan_to_num(7.0), "params/bad": value.isnan()}, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Any:
        return {PARAMS: channels[PARAMS]}

    codec = Codec(name="mine", encode=encode, decode=decode)

    def rule(rows: Tensor, weights: Tensor, context: RoundContext) -> Tensor:
        return torch.where((rows == 7.0).any(dim=0), torch.inf, rows.mean(dim=0))

    return Part(name="mine", codecs=(codec,), rule=OverRows("mine", rule))


@pytest.mark.parametrize(
    ("make", "law", "sentence"),
    [
        (
            overwrites_its_aggregate,
            "Nothing changes its arguments",
            "the server transform's update of mine changes what it is given: aggregate['params']",
        ),
        (
            overwrites_its_gradient,
            "Nothing changes its arguments",
            "the correction of mine changes what it is given: gradient[0]: ",
        ),
        (
            overwrites_what_it_received,
            "Nothing changes its arguments",
            "the loss term of mine changes what it is given: batch.context.sent[0]: ",
        ),
        (
            trains_beside_in_place,
            "Nothing changes its arguments",
            "local training changes what it is given: the received parameters[",
        ),
        (
            reports_in_place,
            "Nothing changes its arguments",
            "the report of mine changes what it is given: params[0]: ",
        ),
        (
            reports_in_place,
            "A run is repeated bit for bit",
            "run a second time and without evaluations between, end elsewhere: the end.state.param",
        ),
        (
            reports_the_mean_with_its_last,
            "The same call gives the same bits",
            "the report of mine, called twice with the same arguments: its result[0]: ",
        ),
        (
            evaluates_in_place,
            "Nothing changes its arguments",
            "the choice of the evaluated model of mine changes what it is given: state['mine.v'][0",
        ),
        (
            counts_its_evaluations,
            "The same call gives the same bits",
            "the choice of the evaluated model of mine, called twice with the same arguments: its",
        ),
        (
            evaluates_nan,
            "Rounds of a small federation go well",
            "after round 1 client 0 is judged by nan",
        ),
        (
            tunes_longer_each_time,
            "The same call gives the same bits",
            (
                "the training before evaluations of mine, called twice with the same arguments: "
                "its result[0].steps: 1 became 2"
            ),
        ),
        (
            tunes_with_no_phases,
            "What is returned is tensors of the right kind",
            "the training before evaluations of mine returned a sequence with str, not phases",
        ),
        (
            pulls_without_a_gradient,
            "What is returned is tensors of the right kind",
            "the loss term of mine has no gradient and changes nothing: compute it from ",
        ),
        (
            adds_a_loss_for_each_example,
            "What is returned is tensors of the right kind",
            "the loss term of mine returned a tensor of shape (4,), not one number: take its mean",
        ),
        (
            draws_in_its_loss,
            "The same call gives the same bits",
            "the loss term of mine, called twice with the same arguments: its result[0]: ",
        ),
        (
            looks_at_the_order_of_arrival,
            "The order of arrival changes no bit",
            "updates arriving from clients [0, 1] and [1, 0] lead to different states: the state",
        ),
        (
            loses_what_other_workers_have,
            "Updates that several workers take merge to the bits of one worker's",
            "7 updates added to one accumulator, and to two that are then merged, differ: ",
        ),
        (
            keeps_its_velocity_to_itself,
            "The same call gives the same bits",
            "the server transform's update of mine, called twice with the same arguments",
        ),
        (
            keeps_its_velocity_to_itself,
            "A run goes on from a checkpoint with the same bits",
            "2 rounds, and 2 with a checkpoint between, end elsewhere",
        ),
        (
            counts_its_batches,
            "A run goes on from a checkpoint with the same bits",
            "something is kept outside the states",
        ),
        (
            draws_at_random,
            "The same call gives the same bits",
            "it keeps something besides its arguments, or draws at random",
        ),
        (
            returns_numpy,
            "What is returned is tensors of the right kind",
            "the server transform's update of mine returned ndarray as 'params', not a tensor",
        ),
        (
            returns_a_dictionary,
            "What is returned is tensors of the right kind",
            "the finisher of mine returned dict, not a Finished",
        ),
        (
            changes_the_dtype,
            "What is returned is tensors of the right kind",
            "the correction of mine returned torch.float16 of shape (99,), not torch.float32",
        ),
        (
            forgets_its_state,
            "Client state that is asked for is kept, round after round",
            "it asks for the client state 'mine.count', which nothing ever keeps",
        ),
        (
            keeps_its_state_every_other_round,
            "Client state that is asked for is kept, round after round",
            "client 0 keeps 'mine.last' after one round and not after the next; what a round does",
        ),
        (
            keeps_its_state_under_any_name,
            "Names of client state begin with their part's name",
            "it keeps 'last' at clients; call it 'mine.last', so that it meets no other",
        ),
        (
            divides_by_the_others,
            "A round of one client is finite",
            "after a round of one client 99 of the parameters are not finite; the first is ",
        ),
        (divides_by_all, "A round that nobody answers is finite", "ZeroDivisionError: "),
        (
            has_the_norm_of_all_clients,
            "Stacked clients are computed as each alone",
            "the correction of mine for client 0 of 3 stacked ones[0] is ",
        ),
        (
            has_an_element_of_the_first_client,
            "Stacked clients are computed as each alone",
            "let it work along the last axis only (dim=-1, keepdim=True, [..., part])",
        ),
        (
            sums_over_all_clients,
            "Stacked clients are computed as each alone",
            "the finisher of mine for client 0 of 3 stacked ones: norm has no leading axis",
        ),
        (
            settles_the_sum_over_all_clients,
            "Stacked clients are computed as each alone",
            "the settler of mine for client 0 of 3 stacked ones: mine.norm has no leading axis",
        ),
        (
            divides_by_the_length,
            "Clients that nothing pushes give a finite step",
            "after round 1 99 of the parameters are not finite; the first is nan",
        ),
        (
            sends_what_nobody_aggregates,
            "Rounds of a small federation go well",
            "'params']; give each channel that a finisher or a codec adds an aggregator",
        ),
        (
            weighs_by_nothing,
            "Rounds of a small federation go well",
            "its aggregation weight 0.0 is not a finite number above 0",
        ),
        (
            cannot_be_sent,
            "The wire carries what is sent",
            "tensor 'params' of dtype torch.complex64 cannot be sent",
        ),
        (
            decodes_to_less,
            "Rounds of a small federation go well",
            "its channel 'params' has the shape (98,), not (99,)",
        ),
        (
            doubles_the_mean,
            "The mean of equal updates is that update",
            "the mean of 3 equal updates is not that update: params[0] is ",
        ),
        (
            asks_the_same_twice,
            "Cohorts are distinct clients, the same for the same seed",
            "of 8 clients, 7 wanted, it selects [0, 0, 0, 0, 0, 0, 0]; return distinct numbers",
        ),
        (
            explodes,
            "Three rounds on the digits neither fail nor diverge",
            "a model that knows nothing has 2.3",
        ),
        (trips, "Rounds of a small federation go well", f"KeyError: 'parms' ({__file__}:"),
        (is_no_part, "It can be made", "it returned dict; return a Part or a Strategy"),
        (
            returns_nan_for_a_nan,
            "NaN from one client harms nobody",
            "with nan in the update of client 0 1 of the parameters are not finite",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:30],
)
def test_a_mistake_is_named(make: Callable[..., Any], law: str, sentence: str):
    broken = of(make, "FAIL", law)
    assert sentence in broken.get(law, f"kept, but {broken}")


@pytest.mark.parametrize(
    ("make", "law", "sentence"),
    [
        (climbs, "Three rounds on the digits neither fail nor diverge", " and was 2.32244 before:"),
        (
            reports_nothing_learned,
            "Three rounds on the digits neither fail nor diverge",
            "the loss on the test set is 2.30259 after 3 rounds and was 2.30259 before: look at ",
        ),
        (
            forgets_its_velocity,
            "States at the server change",
            "the state of 'mine' after 2 rounds is what it was at first; return the new state",
        ),
    ],
)
def test_what_may_be_a_mistake_is_doubtful(make: Callable[..., Any], law: str, sentence: str):
    assert sentence in of(make, "WARN", law)[law]


def test_a_strategy_without_mistakes_keeps_every_law():
    found = verdicts(scaffold)
    assert {law: v for law, v in found.items() if v.outcome not in ("PASS", "WARN")} == {}
    assert len(found) == 22


def test_a_part_is_composed_with_federated_averaging_and_laws_beside_the_point_are_skipped():
    assert of(fedavg, "SKIP") == {
        "Stacked clients are computed as each alone": (
            "it has no corrections, finishers or settlers"
        ),
        "States at the server change": "it keeps none",
    }


def test_knobs_reach_the_constructor():
    law = "Three rounds on the digits neither fail nor diverge"
    outcomes = [verdicts(fedadam, law, server_lr=lr)[law].outcome for lr in (0.1, 1e4)]
    assert outcomes == ["PASS", "FAIL"]


def test_laws_are_skipped_with_the_reason_once_a_round_fails():
    skipped = of(trips, "SKIP")
    assert set(skipped.values()) == {"it does not get through a round"}
    assert "The order of arrival changes no bit" in skipped


def test_a_rule_that_refuses_too_few_updates_in_a_sentence_is_right():
    law = "A round of one client is finite"
    assert of(only_five, "SKIP", law) == {law: "five needs 5 updates; raise cohort.size"}


def only_five() -> Part:
    def rule(rows: Tensor, weights: Tensor, context: RoundContext) -> Tensor:
        if len(rows) < 5:
            raise CompositionError("five needs 5 updates; raise cohort.size")
        return rows.mean(dim=0)

    return Part(name="five", rule=OverRows("five", rule))


def silent(*, mu: float = 1.0) -> Strategy:
    """Do as FedAvg does.

    Needs:
        Nothing.
    """
    return compose(fedavg(), Part(name=f"x(mu={mu})"))


def test_a_docstring_without_its_sections_is_doubtful_and_no_failure():
    law = "Its docstring says what it needs and where it comes from"
    assert of(silent, "WARN", law) == {
        law: "the docstring has no Verified:, Source:, mu under Args:"
    }
