"""Laws that hold for every strategy, or that tie two of them together.

Every registered strategy is checked as `roundel check` does. Those whose server takes a mean and a
step also keep the laws of `ALL`: a new one of that kind is covered by one more line there.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.job import LocalContext, Trained
from roundel.core.learning import Learner
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS, ClientUpdate, Ticket
from roundel.core.metrics import Metrics
from roundel.core.params import ParamSpec
from roundel.core.rundir import RunDirectory
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.server.aggregation import (
    Accumulators,
    ServerState,
    aggregate_updates,
    broadcast_channels,
    initial_state,
    step,
)
from roundel.server.checkpoints import load_checkpoint, save_checkpoint
from roundel.simulations.conformance import check
from roundel.simulations.executor import LoopClients
from roundel.simulations.prepare import Pieces, Simulation, prepare
from roundel.strategies.compose import Strategy
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox
from roundel.strategies.registry import FAMILIES, STRATEGIES
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import RoundContext
from tests.nets import Net


@dataclass(frozen=True)
class Algorithm:
    """A strategy to be made, and the one thing about it that laws must know.

    Attributes:
        make: Its constructor.
        coasts: Whether it moves on without a push once it has been pushed.
        knobs: Arguments of the constructor.
    """

    make: Callable[..., Strategy]
    coasts: bool
    knobs: Mapping[str, Any]

    def strategy(self, **more: Any) -> Strategy:
        return self.make(**{**self.knobs, **more})


def algorithm(make: Callable[..., Strategy], *, coasts: bool = False, **knobs: Any) -> Any:
    name = ", ".join([make.__name__, *(f"{knob}={value}" for knob, value in knobs.items())])
    return pytest.param(Algorithm(make, coasts, knobs), id=name)


ALL = [
    algorithm(fedavg),
    algorithm(fedavg, weights="uniform", server_lr=0.5),
    algorithm(fedprox, mu=0.5),
    algorithm(fedavgm, coasts=True),
    algorithm(fedavgm, coasts=True, nesterov=True, server_lr=0.3),
    algorithm(fedadagrad),
    algorithm(fedadagrad, coasts=True, beta_1=0.9),
    algorithm(fedadam, coasts=True),
    algorithm(fedadam, coasts=True, bias_correction="kingma", weights="uniform"),
    algorithm(fedadam, coasts=True, bias_correction="textbook"),
    algorithm(fedadam, coasts=True, bias_correction="flower"),
    algorithm(fedyogi, coasts=True),
    algorithm(scaffold),
    algorithm(scaffold, server_lr=0.5),
]

every_algorithm = pytest.mark.parametrize("algorithm", ALL)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

POPULATION = 7


QUICKER: Mapping[str, Mapping[str, Any]] = {"fedrep": {"head_epochs": 1}}
"""Knobs of strategies whose defaults train for long."""


SLOW_STARTERS = {"fedadagrad", "dp_fedavg"}
"""Strategies that three short rounds take further from the goal: by first steps whose length does
not depend on the gradient's, and by noise that is made for more clients."""


@pytest.mark.parametrize("name", [members[0].__name__ for members in FAMILIES.values()])
def test_one_strategy_of_each_family_keeps_the_laws_of_all(name: str):
    keeps_all_laws(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_registered_strategy_keeps_the_laws_of_all(name: str):
    keeps_all_laws(name)


def keeps_all_laws(name: str) -> None:
    verdicts = list(check(STRATEGIES[name], QUICKER.get(name)))
    assert [f"{v.law}: {v.reason}" for v in verdicts if v.outcome == "FAIL"] == []
    assert [v.law for v in verdicts if v.outcome == "WARN"] == (
        ["Three rounds on the digits neither fail nor diverge"] if name in SLOW_STARTERS else []
    )
    assert len(verdicts) > 20


def test_the_list_covers_every_server_optimizer():
    covered = {parameter.values[0].make for parameter in ALL}
    assert {fedavg, fedavgm, fedadagrad, fedadam, fedyogi} <= covered


# ---- a model with everything a vector can hold, and updates drawn at random for it


def net_task(dtype: torch.dtype = torch.float32) -> Task:
    return Task(name="net", model=lambda: Net().to(dtype))


def learner_of(dtype: torch.dtype = torch.float32) -> Learner:
    return Learner(net_task(dtype), seed=1)


def some_updates(
    strategy: Strategy, spec: ParamSpec, count: int, seed: int = 0
) -> list[ClientUpdate]:
    """Return updates of clients 0, 1, ... that fill all of a strategy's channels."""
    generator = torch_generator(seed)

    def fill(size: int, dtype: torch.dtype) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        return torch.randint(100, (size,), generator=generator)

    return [
        ClientUpdate(
            ticket=Ticket(run="laws", round=1, client_id=client_id),
            base_version=0,
            num_examples=int(torch.randint(1, 50, (), generator=generator)),
            num_steps=1,
            channels={
                channel: fill(size, dtype)
                for channel, (size, dtype) in strategy.channels(spec).items()
            },
        )
        for client_id in range(count)
    ]


def start(strategy: Strategy, learner: Learner) -> ServerState:
    return initial_state(strategy, learner.spec, learner.initial, learner.initial_integers)


def pushed(strategy: Strategy, learner: Learner, rounds: int = 2) -> ServerState:
    """Return the state after some rounds of random updates."""
    state = start(strategy, learner)
    for seed in range(rounds):
        updates = some_updates(strategy, learner.spec, 3, seed=100 + seed)
        state = aggregate_updates(strategy, learner.spec, state, updates, POPULATION)
    return state


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything that a nest of records and mappings holds, with where it is."""
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield from leaves(value[name], f"{path}.{name}")
    elif is_dataclass(value):
        for each in fields(value):
            yield from leaves(getattr(value, each.name), f"{path}.{each.name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{place}]")
    else:
        yield path, value.clone() if isinstance(value, Tensor) else value


def assert_identical(one: Any, other: Any) -> None:
    """Compare every bit: of tensors their bytes, so that 0.0 and -0.0 differ."""
    left, right = dict(leaves(one)), dict(leaves(other))
    assert left.keys() == right.keys()
    for path, value in left.items():
        if isinstance(value, Tensor):
            assert value.dtype == right[path].dtype, path
            assert value.numpy().tobytes() == right[path].numpy().tobytes(), path
        else:
            assert value == right[path], path


def assert_close(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# ---- sums


@every_algorithm
@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_the_order_of_the_clients_does_not_change_a_bit(
    algorithm: Algorithm, order: Sequence[int], seed: int
):
    strategy, learner = algorithm.strategy(), learner_of()
    state = pushed(strategy, learner)
    updates = some_updates(strategy, learner.spec, 5, seed)
    shuffled = [updates[place] for place in order]
    assert_identical(
        aggregate_updates(strategy, learner.spec, state, shuffled, POPULATION),
        aggregate_updates(strategy, learner.spec, state, updates, POPULATION),
    )


@every_algorithm
@given(randomness=st.randoms(use_true_random=False), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_any_split_over_accumulators_merges_to_the_bits_of_one(
    algorithm: Algorithm, randomness: random.Random, seed: int
):
    strategy, learner = algorithm.strategy(), learner_of()
    updates = some_updates(strategy, learner.spec, 5, seed)
    workers = [Accumulators(strategy, learner.spec) for _ in range(randomness.randint(2, 6))]
    for update in updates:
        randomness.choice(workers).add(update)
    randomness.shuffle(workers)
    while len(workers) > 1:
        workers[0].merge(workers.pop())
    alone = Accumulators(strategy, learner.spec)
    for update in updates:
        alone.add(update)
    context = RoundContext(round=1, population=POPULATION, selected=5, completed=5)
    assert_identical(workers[0].finish(context), alone.finish(context))


@every_algorithm
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_updates_aggregate_to_that_update(algorithm: Algorithm, count: int):
    strategy, learner = algorithm.strategy(), learner_of(torch.float64)
    update = some_updates(strategy, learner.spec, 1)[0]
    accumulators = Accumulators(strategy, learner.spec)
    for client_id in range(count):
        accumulators.add(replace(update, ticket=replace(update.ticket, client_id=client_id)))
    context = RoundContext(round=1, population=POPULATION, selected=count, completed=count)
    for channel, aggregate in accumulators.finish(context).items():
        assert_close(aggregate, update.channels[channel])


@every_algorithm
def test_one_client_counts_the_same_whatever_its_number_of_examples(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of(torch.float64)
    state = pushed(strategy, learner)
    update = some_updates(strategy, learner.spec, 1)[0]
    few, many = (
        aggregate_updates(
            strategy, learner.spec, state, [replace(update, num_examples=count)], POPULATION
        )
        for count in (1, 1000)
    )
    assert_close(few.params, many.params)


@every_algorithm
def test_only_the_ratios_of_the_numbers_of_examples_matter(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of(torch.float64)
    state = pushed(strategy, learner)
    updates = some_updates(strategy, learner.spec, 4)
    tripled = [replace(update, num_examples=3 * update.num_examples) for update in updates]
    assert_close(
        aggregate_updates(strategy, learner.spec, state, updates, POPULATION).params,
        aggregate_updates(strategy, learner.spec, state, tripled, POPULATION).params,
    )


# ---- steps


def trainable(learner: Learner, state: ServerState) -> Tensor:
    return state.params[learner.spec.shared_trainable]


def moved(strategy: Strategy, learner: Learner, state: ServerState, scale: float = 1.0) -> Tensor:
    """Return how far one round of random updates, scaled, moves the trainable parameters."""
    updates = [
        replace(u, channels={**u.channels, PARAMS: scale * u.channels[PARAMS]})
        for u in some_updates(strategy, learner.spec, 4, seed=5)
    ]
    after = aggregate_updates(strategy, learner.spec, state, updates, POPULATION)
    return trainable(learner, after) - trainable(learner, state)


@every_algorithm
def test_the_server_learning_rate_scales_the_step(algorithm: Algorithm):
    learner = learner_of(torch.float64)
    steps = []
    for server_lr in (1.0, 0.25):
        strategy = algorithm.strategy(server_lr=server_lr)
        steps.append(moved(strategy, learner, start(strategy, learner)))
    assert_close(0.25 * steps[0], steps[1])


@every_algorithm
def test_a_server_learning_rate_of_1_is_no_link_of_the_chain(algorithm: Algorithm):
    strategy = algorithm.strategy(server_lr=1.0)
    assert not [link.name for link in strategy.server if link.name.endswith("server_lr")]


@pytest.mark.parametrize("make", [fedavg, fedprox, fedavgm, scaffold])
def test_a_server_learning_rate_of_1_is_the_same_as_none(make: Callable[..., Strategy]):
    learner = learner_of()
    assert_identical(pushed(make(server_lr=1.0), learner), pushed(make(), learner))


@pytest.mark.parametrize(
    "strategy", [fedavg(), fedprox(), fedavgm(), fedavgm(nesterov=True), scaffold()]
)
def test_linear_strategies_take_twice_the_step_for_twice_the_updates(strategy: Strategy):
    learner = learner_of(torch.float64)
    state = start(strategy, learner)
    assert_close(
        2 * moved(strategy, learner, state), moved(strategy, learner, state, 2.0), tolerance=1e-11
    )


@pytest.mark.parametrize("bias_correction", ["none", "kingma", "textbook", "flower"])
@pytest.mark.parametrize("make", [fedadagrad, fedadam, fedyogi])
def test_adaptive_strategies_do_not_see_the_scale_of_updates_and_tau(
    make: Callable[..., Strategy], bias_correction: str
):
    corrected = {} if make is fedadagrad else {"bias_correction": bias_correction}
    learner = learner_of(torch.float64)
    one, thousandfold = make(tau=0.01, **corrected), make(tau=10.0, **corrected)
    assert_close(
        moved(one, learner, start(one, learner)),
        moved(thousandfold, learner, start(thousandfold, learner), 1000.0),
        tolerance=1e-10,
    )


def zero_updates(strategy: Strategy, spec: ParamSpec) -> list[ClientUpdate]:
    return [
        replace(update, channels={c: torch.zeros_like(v) for c, v in update.channels.items()})
        for update in some_updates(strategy, spec, 3)
    ]


@every_algorithm
def test_zero_updates_leave_the_first_parameters_as_they_are(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of()
    state = start(strategy, learner)
    after = aggregate_updates(
        strategy, learner.spec, state, zero_updates(strategy, learner.spec), POPULATION
    )
    assert torch.equal(after.params, state.params)


@every_algorithm
def test_zero_updates_leave_parameters_as_they_are_unless_momentum_is_in_flight(
    algorithm: Algorithm,
):
    strategy, learner = algorithm.strategy(), learner_of()
    state = pushed(strategy, learner)
    after = aggregate_updates(
        strategy, learner.spec, state, zero_updates(strategy, learner.spec), POPULATION
    )
    assert torch.equal(after.params, state.params) != algorithm.coasts


@every_algorithm
def test_float_buffers_take_the_weighted_mean_and_no_server_optimizer_touches_them(
    algorithm: Algorithm,
):
    strategy, learner = algorithm.strategy(), learner_of(torch.float64)
    state = pushed(strategy, learner)
    updates = some_updates(strategy, learner.spec, 4, seed=9)
    weights = [strategy.weigher.weigh(update) for update in updates]
    mean = sum(w * u.channels[BUFFERS] for w, u in zip(weights, updates, strict=True)) / math.fsum(
        weights
    )
    after = aggregate_updates(strategy, learner.spec, state, updates, POPULATION)
    where = learner.spec.shared_buffers
    assert where == slice(0, 8)
    assert_close(after.params[where], state.params[where] + mean)


@every_algorithm
def test_integer_buffers_take_the_maximum(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of()
    updates = [
        replace(update, channels={**update.channels, INTEGERS: torch.tensor([counter])})
        for update, counter in zip(
            some_updates(strategy, learner.spec, 3), (5, 2**60 + 1, 7), strict=True
        )
    ]
    state = start(strategy, learner)
    after = aggregate_updates(strategy, learner.spec, state, updates, POPULATION)
    assert after.integers.tolist() == [2**60 + 1]


@every_algorithm
@both_dtypes
def test_parameters_and_states_keep_the_dtype_of_the_model(
    algorithm: Algorithm, dtype: torch.dtype
):
    strategy, learner = algorithm.strategy(), learner_of(dtype)
    after = pushed(strategy, learner)
    tensors = [value for _, value in leaves(after) if isinstance(value, Tensor)]
    floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    assert after.params.dtype == dtype
    assert set(floats) == {dtype}
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    assert set(broadcast_channels(strategy, after)) == set(strategy.broadcast)


@every_algorithm
def test_nothing_changes_its_arguments(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of()
    state = pushed(strategy, learner)
    updates = some_updates(strategy, learner.spec, 3)
    before = dict(leaves([state, updates]))
    after = aggregate_updates(strategy, learner.spec, state, updates, POPULATION)
    aggregate_updates(strategy, learner.spec, after, updates, POPULATION)
    assert_identical(dict(leaves([state, updates])), before)

    context = RoundContext(round=3, population=POPULATION, selected=3, completed=3)
    accumulators = Accumulators(strategy, learner.spec)
    for update in updates:
        accumulators.add(update)
    aggregate = accumulators.finish(context)
    before = dict(leaves([state, aggregate]))
    first, second = (step(strategy, learner.spec, state, aggregate, context) for _ in range(2))
    assert_identical(dict(leaves([state, aggregate])), before)
    assert_identical(first, second)


# ---- at the clients


def contexts(learner: Learner, strategy: Strategy, count: int) -> list[LocalContext]:
    """Return what clients with states of their own know in a later round."""
    state = pushed(strategy, learner)
    generator = torch_generator(3)
    channels = broadcast_channels(strategy, state)
    contexts = []
    for _ in range(count):
        sent = torch.randn(learner.spec.size, generator=generator)
        fresh = LocalContext(spec=learner.spec, sent=sent, received=channels)
        trained = trained_from(torch.randn(learner.spec.size, generator=generator))
        finished = [finish(trained, fresh) for finish in strategy.finishers]
        sent = {PARAMS: (trained.vector - fresh.sent)[learner.spec.shared_trainable]}
        for each in finished:
            sent |= each.channels
        own = [each.state for each in finished]
        own += [settle(sent, fresh) for settle in strategy.settlers]
        contexts.append(replace(fresh, state={n: v for kept in own for n, v in kept.items()}))
    return contexts


def trained_from(vector: Tensor) -> Trained:
    return Trained(
        vector=vector,
        integers=torch.zeros(1, dtype=torch.int64),
        metrics=Metrics(),
        steps=(3,),
        impulse=0.3,
    )


def stacked(each: Sequence[LocalContext]) -> LocalContext:
    """Put clients side by side, as rows of every tensor that differs by client."""
    return replace(
        each[0],
        sent=torch.stack([context.sent for context in each]),
        state={n: torch.stack([context.state[n] for context in each]) for n in each[0].state},
    )


@every_algorithm
def test_corrections_of_stacked_clients_are_those_of_each_bit_for_bit(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of()
    each = contexts(learner, strategy, 3)
    size = learner.spec.trainable.stop - learner.spec.trainable.start
    gradients, points = torch.randn(2, 3, size, generator=torch_generator(4)).unbind()
    for correction in strategy.corrections:
        together = correction(gradients, points, stacked(each))
        assert together.shape == (3, size)
        for row, context in enumerate(each):
            alone = correction(gradients[row], points[row], context)
            assert_identical(together[row], alone)


@every_algorithm
def test_finishing_stacked_clients_is_finishing_each_bit_for_bit(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of()
    each = contexts(learner, strategy, 3)
    vectors = torch.randn(3, learner.spec.size, generator=torch_generator(5))
    for finish in strategy.finishers:
        together = finish(trained_from(vectors), stacked(each))
        for row, context in enumerate(each):
            alone = finish(trained_from(vectors[row]), context)
            assert_identical({n: v[row] for n, v in together.channels.items()}, alone.channels)
            assert_identical({n: v[row] for n, v in together.state.items()}, alone.state)


@every_algorithm
def test_settling_stacked_clients_is_settling_each_bit_for_bit(algorithm: Algorithm):
    strategy, learner = algorithm.strategy(), learner_of()
    each = contexts(learner, strategy, 3)
    generator = torch_generator(6)
    sent = {
        channel: torch.randn(3, size, generator=generator)
        for channel, (size, dtype) in strategy.channels(learner.spec).items()
        if dtype.is_floating_point
    }
    for settle in strategy.settlers:
        together = settle(sent, stacked(each))
        for row, context in enumerate(each):
            alone = settle({n: v[row] for n, v in sent.items()}, context)
            assert_identical({n: v[row] for n, v in together.items()}, alone)


def some_clients(count: int = 4) -> InMemoryPopulation:
    generator = torch_generator(7)
    return InMemoryPopulation.of(
        Examples(
            torch.randn(5 + k, 3, generator=generator),
            torch.randint(2, (5 + k,), generator=generator),
        )
        for k in range(count)
    )


def simulation(strategy: Strategy, cohort: int = 3, rounds: int = 4) -> Simulation:
    experiment = Experiment.model_validate(
        {
            "rounds": rounds,
            "cohort": {"size": cohort},
            "client": {"epochs": 2, "batch_size": 3},
            "evaluation": {"clients": 0},
        }
    )
    pieces = Pieces(task=net_task(), strategy=strategy, population=some_clients())
    return prepare(experiment, pieces)


def loop_clients(sim: Simulation, store: ClientStore | None = None) -> LoopClients:
    trainer = Trainer(sim.plan, sim.learner)
    return LoopClients(trainer, sim.population, store or ClientStore())


def states_of(strategy: Strategy, cohort: int = 3, rounds: int = 4) -> list[ServerState]:
    """Train real clients; return the server's state after each round."""
    sim = simulation(strategy, cohort, rounds)
    server = sim.server("laws")
    return [state for state, _ in server.rounds(loop_clients(sim), server.initial_state())]


@every_algorithm
def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(algorithm: Algorithm, tmp_path: Path):
    sim = simulation(algorithm.strategy())
    server, clients = sim.server("laws"), loop_clients(sim)
    rounds = server.rounds(clients, server.initial_state())
    middle, _ = list(islice(rounds, 2))[-1]
    with RunDirectory.create(tmp_path / "run", sim.plan.experiment, {"run_id": "laws"}) as run:
        save_checkpoint(run, middle, clients.states(), sim.learner.spec.fingerprint)
        loaded = load_checkpoint(run.path, sim.learner.spec.fingerprint)
    assert loaded is not None
    state, client_states = loaded
    assert_identical(state, replace(middle, transforms=without_empty(middle.transforms)))
    assert_identical(client_states, clients.states())

    again = simulation(algorithm.strategy())
    resumed = loop_clients(again, ClientStore(client_states))
    continued = [s for s, _ in again.server("laws").rounds(resumed, state)]
    assert_identical(continued, [s for s, _ in rounds])
    assert_identical(resumed.states(), clients.states())


def without_empty(transforms: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out links without state, of which a checkpoint keeps nothing."""
    return {name: state for name, state in transforms.items() if state}


def assert_same_run(one: Strategy, other: Strategy, cohort: int = 3) -> None:
    for left, right in zip(states_of(one, cohort), states_of(other, cohort), strict=True):
        assert torch.equal(left.params, right.params)
        assert torch.equal(left.integers, right.integers)


def test_fedprox_without_a_pull_is_fedavg_bit_for_bit():
    assert_same_run(fedprox(mu=0.0), fedavg())


@pytest.mark.parametrize("nesterov", [False, True])
def test_fedavgm_without_momentum_is_fedavg_bit_for_bit(nesterov: bool):
    assert_same_run(fedavgm(momentum=0.0, nesterov=nesterov), fedavg())


def test_the_first_round_of_scaffold_is_that_of_uniform_fedavg_bit_for_bit():
    controlled, uniform = states_of(scaffold()), states_of(fedavg(weights="uniform"))
    assert torch.equal(controlled[0].params, uniform[0].params)
    assert not torch.equal(controlled[-1].params, uniform[-1].params)


def test_scaffold_of_one_client_that_holds_everything_is_fedavg():
    alone = InMemoryPopulation([some_clients().client(0)])
    points = []
    for strategy in (scaffold(), fedavg()):
        sim = replace(simulation(strategy, cohort=1), population=alone)
        server = sim.server("laws")
        points.append(
            [s.params for s, _ in server.rounds(loop_clients(sim), server.initial_state())]
        )
    for one, other in zip(*points, strict=True):
        assert_close(one, other, tolerance=1e-5)
