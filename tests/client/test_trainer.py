"""One client's local work, held against what it should send, keep and report.

The quadratic client minimises ``(w - 4)**2 / 2`` by steps of 1/2, each of which goes half of the
way.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.errors import DataError, ParameterError
from roundel.core.job import LocalContext, LocalJob, Trained
from roundel.core.learning import Learner
from roundel.core.messages import (
    BUFFERS,
    INTEGERS,
    PARAMS,
    ClientUpdate,
    EvaluateRequest,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.strategies.aggregators import Mean
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.dp_fedavg import dp_fedavg
from roundel.strategies.fedavg import fedavg
from roundel.strategies.local_dp import local_dp
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Codec, Finished, State
from tests.federations import Point, Quadratic, quadratic_task

TICKET = Ticket(run="run", round=3, client_id=5, attempt=1)
HALF_STEP = {"lr": 0.5, "steps": 1, "batch_size": "full"}
CLIENT = Quadratic.of([1.0], [4.0]).examples(3)


class Net(nn.Module):
    """A body with a norm and dropout, shared, and a head and a norm of the client's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.own_norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.dropout(self.norm(self.body(inputs)))
        outputs: Tensor = self.head(self.own_norm(hidden))
        return outputs


def is_personal(name: str) -> bool:
    return name.startswith(("own_norm", "head"))


NET = Task(name="net", model=Net)
PERSONAL = Task(name="personal net", model=Net, personal=is_personal)
SETTINGS = {"lr": 0.1, "epochs": 2, "batch_size": 4}


def labelled(seed: int = 0, count: int = 10) -> Examples:
    generator = torch_generator(seed)
    inputs = torch.randn(count, 3, generator=generator)
    return Examples(inputs, torch.randint(2, (count,), generator=generator))


def trainer_of(task: Task, strategy: Strategy, *, seed: int = 0, **client: Any) -> Trainer:
    experiment = Experiment.model_validate({"seed": seed, "client": client})
    return Trainer(Plan.of(experiment, task, strategy), Learner(task, seed=0))


def request(
    params: Tensor, integers: Tensor, channels: Mapping[str, Tensor] | None = None
) -> TrainRequest:
    return TrainRequest(
        ticket=TICKET,
        base_version=2,
        params=params,
        integers=integers,
        channels=channels or {},
    )


def first_request(task: Task, **ticket: int) -> TrainRequest:
    """Return a request with the parameters of a new model, and another ticket if asked for."""
    learner = Learner(task, seed=0)
    spec = learner.spec
    integers = learner.initial_integers[spec.shared_integers]
    asked = request(learner.initial[spec.shared], integers)
    return replace(asked, ticket=replace(TICKET, **ticket))


def point(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def train_point(
    strategy: Strategy,
    start: float,
    state: ClientState | None = None,
    channels: Mapping[str, Tensor] | None = None,
    **client: Any,
) -> tuple[ClientUpdate, ClientState]:
    trainer = trainer_of(quadratic_task(point(0)), strategy, **HALF_STEP | client)
    no_integers = torch.empty(0, dtype=torch.int64)
    return trainer.train(request(point(start), no_integers, channels), CLIENT, state or {})


def same(one: ClientUpdate, other: ClientUpdate) -> bool:
    return (
        one.channels.keys() == other.channels.keys()
        and all(torch.equal(value, other.channels[name]) for name, value in one.channels.items())
        and (one.metrics, one.scalars) == (other.metrics, other.scalars)
    )


# ---- what is sent


@pytest.mark.parametrize(("start", "delta"), [(0.0, 2.0), (8.0, -2.0), (4.0, 0.0)])
def test_the_delta_is_trained_minus_sent(start, delta):
    update, _ = train_point(fedavg(), start)
    assert update.channels[PARAMS].tolist() == [delta]
    assert update.channels.keys() == {PARAMS}


def test_an_update_carries_the_ticket_and_version_of_its_request():
    update, _ = train_point(fedavg(), 0.0)
    assert (update.ticket, update.base_version) == (TICKET, 2)


def test_examples_steps_and_metrics_say_what_was_done():
    # From 0 by 2 and by 1: losses 16 / 2 and 4 / 2 and 1 / 2 before each of three steps.
    update, _ = train_point(fedavg(), 0.0, steps=3)
    assert (update.num_examples, update.num_steps) == (3, 3)
    assert update.metrics == Metrics({"loss": 3 * (8 + 2 + 0.5)}, 9)
    assert update.scalars == {}
    assert update.seconds > 0


def test_steps_are_counted_over_epochs_and_batches():
    update, _ = train_point(fedavg(), 0.0, steps=None, epochs=4, batch_size=2)
    assert (update.num_examples, update.num_steps, update.metrics.count) == (3, 8, 12)


def test_buffers_go_up_as_deltas_and_counters_as_they_are():
    start = first_request(NET)
    update, _ = trainer_of(NET, fedavg(), **SETTINGS).train(start, labelled(), {})
    learner = Learner(NET, seed=0)
    assert {name: value.shape[0] for name, value in update.channels.items()} == {
        PARAMS: learner.spec.shared_trainable.stop - learner.spec.shared_trainable.start,
        BUFFERS: 16,
        INTEGERS: 2,
    }
    # Two epochs of three batches moved the running statistics.
    assert update.channels[INTEGERS].tolist() == [6, 6]
    assert not torch.equal(update.channels[BUFFERS], torch.zeros(16))
    assert update.channels[INTEGERS].dtype == torch.int64


def test_training_starts_from_what_was_sent_and_not_from_the_trainers_own_model():
    trainer = trainer_of(NET, fedavg(), **SETTINGS)
    start = first_request(NET)
    moved = request(start.params + 0.5, torch.tensor([7, 7]))
    update, _ = trainer.train(moved, labelled(), {})
    again, _ = trainer_of(NET, fedavg(), **SETTINGS).train(moved, labelled(), {})
    assert same(update, again)
    assert update.channels[INTEGERS].tolist() == [13, 13]


# ---- state


def test_without_state_to_keep_none_comes_back():
    _, state = train_point(fedavg(), 0.0)
    assert state == {}


def test_state_is_returned_and_not_applied():
    # From 0 with c = 1 and c_k = 3 the gradient -4 becomes -6: to 3. The average gradient is
    # -3 / 0.5 = -6, so dc = -6 - 1 and c_k becomes 3 - 7.
    before = {"scaffold.control": point(3)}
    channels = {"control": point(1)}
    for _ in range(2):
        update, after = train_point(scaffold(), 0.0, before, channels)
        assert update.channels[PARAMS].tolist() == [3]
        assert update.channels["control"].tolist() == [-7]
        assert after["scaffold.control"].tolist() == [-4]
        assert before["scaffold.control"].tolist() == [3]


def test_finishing_steps_add_channels_scalars_and_state():
    def finish(trained: Trained, context: LocalContext) -> Finished:
        seen = context.state.get("toy.seen", torch.zeros(()))
        return Finished(
            channels={"extra": context.sent + 1},
            scalars={"steps": float(sum(trained.steps))},
            state={"toy.seen": seen + 1},
        )

    update, state = train_point(compose(Part(name="toy", finishers=(finish,))), 6.0)
    assert update.channels["extra"].tolist() == [7]
    assert update.scalars == {"steps": 1.0}
    _, later = train_point(compose(Part(name="toy", finishers=(finish,))), 6.0, state)
    assert (state["toy.seen"].item(), later["toy.seen"].item()) == (1, 2)


def test_what_a_solver_keeps_is_part_of_the_clients_next_state():
    def solve(learner: Learner, job: LocalJob) -> Trained:
        rounds = job.context.state.get("toy.rounds", torch.zeros(()))
        return replace(learner.train(job), state={"toy.rounds": rounds + 1})

    strategy = compose(Part(name="toy", solver=solve))
    _, first = train_point(strategy, 0.0)
    _, second = train_point(strategy, 0.0, first)
    assert (first["toy.rounds"].item(), second["toy.rounds"].item()) == (1, 2)


def test_codecs_encode_in_order_with_a_seed_and_a_state_of_their_own():
    seen: list[tuple[str, float, int]] = []

    def codec(name: str, factor: float) -> Codec:
        def encode(channels, context, seed):
            count = context.state.get(name, torch.zeros(()))
            seen.append((name, channels[PARAMS].item(), seed))
            return {PARAMS: factor * channels[PARAMS] + 1}, {name: count + 1}

        return Codec(name=name, encode=encode, decode=lambda sent, _kinds: sent)

    part = Part(name="toy", codecs=(codec("first", 2.0), codec("second", 10.0)))
    update, state = train_point(compose(part), 0.0, {"first": torch.tensor(4.0)})
    # The delta 2, then 2 * 2 + 1 = 5, then 10 * 5 + 1.
    assert update.channels[PARAMS].item() == 51
    assert [(name, value) for name, value, _ in seen] == [("first", 2), ("second", 5)]
    assert seen[0][2] != seen[1][2]
    assert {name: value.item() for name, value in state.items()} == {"first": 5, "second": 1}


# ---- personal layers


def train_personal(state: ClientState, **ticket: int) -> tuple[ClientUpdate, ClientState]:
    trainer = trainer_of(PERSONAL, fedavg(), **SETTINGS)
    return trainer.train(first_request(PERSONAL, **ticket), labelled(), state)


def test_personal_layers_never_reach_the_update():
    update, _ = train_personal({})
    assert {name: value.shape[0] for name, value in update.channels.items()} == {
        PARAMS: 4 * 3 + 4 + 2 * 4,  # the body and the shared norm
        BUFFERS: 2 * 4,  # the shared norm's running mean and variance
        INTEGERS: 1,  # and its count of batches
    }


def test_personal_layers_and_buffers_stay_with_the_client():
    spec = Learner(PERSONAL, seed=0).spec
    fresh = Learner(PERSONAL, seed=0).initial[spec.personal]
    _, first = train_personal({})
    assert first.keys() == {"personal", "personal integers"}
    assert first["personal"].shape == (2 * 4 + 4 * 2 + 2 + 2 * 4,)
    assert not torch.equal(first["personal"], fresh)
    # They are where the next round starts: with the first ones again it would end as before.
    _, second = train_personal(first)
    _, first_again = train_personal({"personal": fresh})
    assert not torch.equal(second["personal"], first["personal"])
    assert torch.equal(first_again["personal"], first["personal"])
    # Counters too: each time the personal norm sees as many batches more.
    assert int(second["personal integers"]) == 2 * int(first["personal integers"]) > 0


def test_state_is_no_view_of_the_model_that_trains_the_next_client():
    trainer = trainer_of(PERSONAL, fedavg(), **SETTINGS)
    update, state = trainer.train(first_request(PERSONAL), labelled(1), {})
    tensors = [*update.channels.values(), *state.values()]
    before = [tensor.clone() for tensor in tensors]
    trainer.train(first_request(PERSONAL, client_id=6), labelled(2), {})
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))


def test_evaluation_uses_the_clients_own_layers():
    trainer = trainer_of(PERSONAL, fedavg(), **SETTINGS)
    start = first_request(PERSONAL)
    asked = EvaluateRequest(ticket=TICKET, params=start.params, integers=start.integers)
    examples = labelled()
    _, state = train_personal({})
    fresh, own = (trainer.evaluate(asked, examples, kept) for kept in ({}, state))
    assert fresh.ticket == own.ticket == TICKET
    assert fresh.metrics.count == own.metrics.count == 10
    assert fresh.metrics.sums["loss"] != own.metrics.sums["loss"]
    model = PERSONAL.new_model(0)
    spec = PERSONAL.spec(model)
    integers = torch.cat([start.integers, state["personal integers"]])
    spec.write(model, torch.cat([start.params, state["personal"]]), integers)
    model.eval()
    with torch.no_grad():
        loss = functional.cross_entropy(model(examples.inputs), examples.targets)
    assert own.metrics.means()["loss"] == pytest.approx(float(loss), rel=1e-6)


def test_evaluation_of_no_examples_counts_none():
    trainer = trainer_of(NET, fedavg())
    start = first_request(NET)
    asked = EvaluateRequest(ticket=TICKET, params=start.params, integers=start.integers)
    assert trainer.evaluate(asked, labelled(count=0), {}).metrics.count == 0


@pytest.mark.parametrize(
    ("task", "parts", "alike"),
    [
        (NET, [], True),
        (NET, [scaffold()], True),
        (PERSONAL, [], False),
        (NET, [Part(name="own", evaluated=lambda received, _state: received)], False),
        (NET, [Part(name="tuned", tuning=lambda phases: phases)], False),
    ],
)
def test_clients_are_judged_alike_by_what_all_of_them_received(task, parts, alike):
    assert trainer_of(task, compose(fedavg(), *parts)).judges_alike is alike


# ---- the same request, the same bits


def test_the_same_request_twice_gives_the_same_bits_whatever_came_between():
    trainer = trainer_of(NET, fedavg(), **SETTINGS)
    start = first_request(NET)
    update, _ = trainer.train(start, labelled(), {})
    trainer.train(first_request(NET, client_id=6), labelled(1), {})
    trainer.evaluate(
        EvaluateRequest(ticket=TICKET, params=start.params, integers=start.integers),
        labelled(2),
        {},
    )
    torch.rand(7)
    again, _ = trainer.train(start, labelled(), {})
    elsewhere, _ = trainer_of(NET, fedavg(), **SETTINGS).train(start, labelled(), {})
    assert same(update, again)
    assert same(update, elsewhere)


def test_another_attempt_at_the_same_work_gives_the_same_bits():
    trainer = trainer_of(NET, fedavg(), **SETTINGS)
    update, _ = trainer.train(first_request(NET, attempt=0), labelled(), {})
    retried, _ = trainer.train(first_request(NET, attempt=1), labelled(), {})
    assert same(update, retried)


@pytest.mark.parametrize("other", [{"round": 4}, {"client_id": 6}])
def test_another_round_or_client_draws_other_batches_and_dropout(other):
    trainer = trainer_of(NET, fedavg(), **SETTINGS)
    update, _ = trainer.train(first_request(NET), labelled(), {})
    different, _ = trainer.train(first_request(NET, **other), labelled(), {})
    assert not same(update, different)


def test_another_seed_of_training_draws_others_too():
    one, other = (
        trainer_of(NET, fedavg(), seed=seed, **SETTINGS).train(first_request(NET), labelled(), {})[
            0
        ]
        for seed in (1, 2)
    )
    assert not same(one, other)


def legacy_numpy_state() -> str:
    return repr(np.random.get_state())  # noqa: NPY002 - user code draws from it


def test_training_leaves_the_global_generators_where_they_were():
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), legacy_numpy_state()
    trainer_of(NET, fedavg(), **SETTINGS).train(first_request(NET), labelled(), {})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), legacy_numpy_state()) == before[1:]


def test_nothing_that_is_given_is_changed():
    start, examples = first_request(PERSONAL), labelled()
    spec = Learner(PERSONAL, seed=0).spec
    state = {"personal": torch.ones(spec.personal.stop - spec.personal.start)}
    given = [start.params, start.integers, examples.inputs, examples.targets, state["personal"]]
    before = [tensor.clone() for tensor in given]
    trainer_of(PERSONAL, fedavg(), **SETTINGS).train(start, examples, state)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))
    assert state.keys() == {"personal"}


# ---- rounds


def test_the_learning_rate_is_that_of_the_round():
    # At round 3 the rate 0.5 has been halved twice: an eighth of the way from 0 to 4.
    update, _ = train_point(fedavg(), 0.0, schedule="step", gamma=0.5)
    assert update.channels[PARAMS].tolist() == [0.5]


# ---- what cannot be done


def test_a_client_without_examples_is_an_error_that_says_so():
    with pytest.raises(DataError, match="there are no training examples"):
        trainer_of(NET, fedavg()).train(first_request(NET), labelled(count=0), {})


def test_parameters_of_another_model_are_an_error():
    start = first_request(NET)
    with pytest.raises(ParameterError, match="does not fit this model"):
        trainer_of(NET, fedavg()).train(request(start.params[:-1], start.integers), labelled(), {})


# ---- measuring before, training beside, evaluating what is one's own


def seen_before(names: frozenset[str]) -> tuple[Part, list[Trained]]:
    seen: list[Trained] = []

    def finish(trained: Trained, _context: LocalContext) -> Finished:
        seen.append(trained)
        return Finished()

    return Part(name="look", measures=names, finishers=(finish,)), seen


def test_what_is_measured_is_the_received_model_and_not_the_trained_one():
    # At 0 the loss is (0 - 4)**2 / 2 and its gradient 0 - 4, whatever the training does.
    part, seen = seen_before(frozenset({"loss", "gradient"}))
    train_point(compose(part), 0.0, steps=3)
    assert seen[0].loss_before is not None
    assert seen[0].loss_before.item() == 8.0
    assert seen[0].gradient_before is not None
    assert seen[0].gradient_before.tolist() == [-4.0]


def test_nothing_is_measured_unless_it_is_asked_for():
    part, seen = seen_before(frozenset())
    train_point(compose(part), 0.0)
    assert (seen[0].loss_before, seen[0].gradient_before) == (None, None)
    part, seen = seen_before(frozenset({"loss"}))
    train_point(compose(part), 0.0)
    assert seen[0].loss_before is not None
    assert seen[0].gradient_before is None


def test_what_a_model_draws_while_it_is_measured_is_the_tickets_own():
    class Noisy(Point):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * torch.rand(len(inputs))

    task = replace(quadratic_task(point(0)), model=lambda: Noisy(point(0)))
    none = torch.empty(0, dtype=torch.int64)
    part, seen = seen_before(frozenset({"loss"}))
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer_of(task, compose(part)).train(request(point(0), none), CLIENT, {})
        assert torch.equal(torch.get_rng_state(), before)
    one, other = (trained.loss_before for trained in seen)
    assert one is not None
    assert other is not None
    assert 0 < one.item() == other.item()


def settling(*codecs: Codec) -> tuple[Strategy, list[Mapping[str, Tensor]]]:
    seen: list[Mapping[str, Tensor]] = []

    def settle(channels: Mapping[str, Tensor], context: LocalContext) -> State:
        seen.append(channels)
        return {"sum": context.state.get("sum", point(0)) + channels[PARAMS]}

    return compose(Part(name="settle", settlers=(settle,), codecs=codecs)), seen


def test_a_settler_is_given_what_the_server_will_decode():
    # From 0 to 2; halves are sent, and the codec before them rounds down to whole threes.
    halves = Codec(
        name="halves",
        encode=lambda channels, _context, _seed: ({PARAMS: channels[PARAMS] / 2}, {}),
        decode=lambda channels, _decoding: {PARAMS: channels[PARAMS] * 2},
    )
    threes = Codec(
        name="threes",
        encode=lambda channels, _context, _seed: ({PARAMS: (channels[PARAMS] / 3).round()}, {}),
        decode=lambda channels, decoding: {
            PARAMS: 3 * channels[PARAMS] + decoding.broadcast["more"] + len(decoding.kinds)
        },
    )
    strategy, seen = settling(threes, halves)
    update, state = train_point(strategy, 0.0, {"sum": point(10)}, {"more": point(100)})
    assert update.channels[PARAMS].tolist() == [0.5]
    assert [channels[PARAMS].tolist() for channels in seen] == [[3 + 100 + 1]]
    assert state["sum"].tolist() == [114]


def test_a_settler_without_codecs_is_given_the_channels_as_they_are():
    strategy, seen = settling()
    update, state = train_point(strategy, 0.0)
    assert seen[0].keys() == update.channels.keys() == {PARAMS}
    assert state["sum"].tolist() == [2]


def test_an_attackers_settler_is_given_what_he_made_of_his_update():
    def fails(channels: Mapping[str, Tensor], decoding: object) -> Mapping[str, Tensor]:
        raise ParameterError("whatever he sends")

    refuses = Codec(
        name="any", encode=lambda channels, _context, _seed: (channels, {}), decode=fails
    )
    strategy, seen = settling(refuses)
    trainer = trainer_of(quadratic_task(point(0)), strategy, **HALF_STEP)
    none = torch.empty(0, dtype=torch.int64)
    trainer.train(request(point(0), none), CLIENT, {}, lambda _: {PARAMS: point(-7)})
    assert [channels[PARAMS].tolist() for channels in seen] == [[-7]]


@pytest.mark.parametrize("measures", [frozenset(), frozenset({"loss", "gradient"})], ids=len)
def test_measuring_changes_nothing_about_the_training(measures):
    plain, _ = trainer_of(NET, fedavg(), **SETTINGS).train(first_request(NET), labelled(), {})
    part, _ = seen_before(measures)
    trainer = trainer_of(NET, compose(part), **SETTINGS)
    measured, _ = trainer.train(first_request(NET), labelled(), {})
    assert same(plain, measured)


def test_the_context_says_the_learning_rate_of_the_first_phase():
    rates: list[float] = []

    def correct(gradient: Tensor, _point: Tensor, context: LocalContext) -> Tensor:
        rates.append(context.lr)
        return gradient

    train_point(compose(Part(name="look", corrections=(correct,))), 0.0, lr=0.25)
    assert rates == [0.25]


def test_side_work_trains_on_the_same_job_and_is_kept_without_touching_the_update():
    def once_more(learner: Learner, job: LocalJob) -> dict[str, Tensor]:
        start = job.context.state.get("side.own", job.context.sent)
        context = replace(job.context, sent=start)
        return {"side.own": learner.train(replace(job, context=context)).vector}

    strategy = compose(Part(name="side", side_work=(once_more,)))
    update, state = train_point(strategy, 0.0, {"side.own": point(-4.0)})
    assert update.channels[PARAMS].tolist() == [2.0]
    assert state["side.own"].tolist() == [0.0]


def test_what_is_evaluated_may_be_the_clients_own():
    def own(received: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return state.get("own.model", received)

    strategy = compose(Part(name="own", evaluated=own))
    trainer = trainer_of(quadratic_task(point(0)), strategy, **HALF_STEP)
    asked = EvaluateRequest(
        ticket=TICKET, params=point(0.0), integers=torch.empty(0, dtype=torch.int64)
    )
    losses = [
        trainer.evaluate(asked, CLIENT, state).metrics.means()["loss"]
        for state in ({}, {"own.model": point(3.0)})
    ]
    assert losses == [8.0, 0.5]


def test_codecs_get_the_long_channels_only_and_may_add_short_ones():
    given: list[set[str]] = []

    def encode(channels, _context, _seed):
        given.append(set(channels))
        return {**channels, "params/norm": point(7.0), "count": point(1.0)}, {}

    def finish(_trained: Trained, context: LocalContext) -> Finished:
        return Finished(channels={"short": context.sent[:1]})

    codec = Codec(name="c", encode=encode, decode=lambda sent, _decoding: sent)
    part = Part(
        name="p",
        codecs=(codec, replace(codec, name="d")),
        finishers=(finish,),
        aggregators={"short": Mean(), "count": Mean()},
        channel_sizes={"short": 1, "count": 1},
    )
    update, _ = train_point(compose(part), 0.0)
    assert given == [{PARAMS}, {PARAMS, "params/norm"}]
    assert set(update.channels) == {PARAMS, "params/norm", "count", "short"}


def test_what_a_tamperer_makes_of_an_update_is_encoded_in_its_place():
    def encode(channels, _context, _seed):
        return {PARAMS: channels[PARAMS] / 2}, {}

    part = Part(name="c", codecs=(Codec(name="c", encode=encode, decode=lambda sent, _: sent),))
    trainer = trainer_of(quadratic_task(point(0)), compose(part), **HALF_STEP)
    asked = request(point(0.0), torch.empty(0, dtype=torch.int64))
    update, _ = trainer.train(asked, CLIENT, {}, lambda channels: {PARAMS: -channels[PARAMS]})
    assert update.channels[PARAMS].tolist() == [-1.0]


def test_a_tamperer_leaves_out_what_protects_only_itself():
    def doubling(name: str, *, voluntary: bool) -> Codec:
        return Codec(
            name=name,
            encode=lambda channels, _context, _seed: ({PARAMS: 2 * channels[PARAMS]}, {}),
            decode=lambda sent, _: sent,
            voluntary=voluntary,
        )

    codecs = (doubling("a", voluntary=True), doubling("b", voluntary=False))
    strategy = compose(Part(name="p", codecs=codecs))
    trainer = trainer_of(quadratic_task(point(0)), strategy, **HALF_STEP)
    asked = request(point(0.0), torch.empty(0, dtype=torch.int64))
    honest, _ = trainer.train(asked, CLIENT, {})
    assert honest.channels[PARAMS].tolist() == [8.0]
    hostile, _ = trainer.train(asked, CLIENT, {}, lambda channels: channels)
    assert hostile.channels[PARAMS].tolist() == [4.0]


def test_a_client_with_noise_of_its_own_tells_nothing_about_its_training():
    task, asked = quadratic_task(point(0)), request(point(0.0), torch.empty(0, dtype=torch.int64))
    for part, expected in ((dp_fedavg(), {"loss": 8.0}), (local_dp(), {})):
        update, _ = trainer_of(task, compose(part), **HALF_STEP).train(asked, CLIENT, {})
        assert update.metrics.means() == expected
        assert update.num_examples == 3


def test_a_secret_codec_draws_from_what_only_the_client_knows():
    seeds: list[int] = []

    def encode(channels, _context, seed):
        seeds.append(seed)
        return channels, {}

    codec = Codec(name="s", encode=encode, decode=lambda sent, _: sent, secret=True)
    task = quadratic_task(point(0))
    plan = Plan.of(
        Experiment.model_validate({"client": HALF_STEP}),
        task,
        compose(Part(name="s", codecs=(codec,))),
    )
    asked = request(point(0.0), torch.empty(0, dtype=torch.int64))
    for key in (bytes(32), bytes(32), bytes([1] * 32)):
        Trainer(plan, Learner(task, seed=0), partial(bytes, key)).train(asked, CLIENT, {})
    other = replace(asked, ticket=replace(TICKET, client_id=6))
    Trainer(plan, Learner(task, seed=0), partial(bytes, bytes(32))).train(other, CLIENT, {})
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert max(seeds) > 2**200
