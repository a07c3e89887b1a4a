"""Clients on a stack, held against the loop."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError, ParameterError
from roundel.core.job import LocalContext, Phase
from roundel.core.learning import Learner
from roundel.core.optimizers import OptimizerSpec
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.simulations.tasks import characters, cifar10, denoising, digits, images, mnist
from roundel.simulations.vectorized import Stack
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fedprox import prox
from roundel.strategies.moon import moon
from roundel.strategies.personal_layers import fedrep
from roundel.strategies.scaffold import CONTROL, scaffold
from tests.nets import Net
from tests.simulations.vectorized.jobs import (
    assert_as_the_loop,
    classified,
    jobs_of,
    mlp,
    task_of,
)

UNEQUAL = (9, 1, 4, 13, 8)
PLAIN = classified(3)


class Custom(nn.Module):
    """The same as `mlp`, with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(torch.relu(self.first(inputs)))
        return outputs


class Counting(nn.Module):
    """Multiplies by how often it has run, of which no vector knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("runs", torch.zeros(()), persistent=False)
        self.runs: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        self.runs += 1
        outputs: Tensor = self.layer(inputs) * self.runs
        return outputs


def scalar_weight() -> nn.Module:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.w * inputs

    return Scalar()


def phase(*, size: int | None = 4, **rest: object) -> Phase:
    return replace(Phase(batch_size=size), **rest)  # type: ignore[arg-type]


def sgd(**rest: float) -> OptimizerSpec:
    return OptimizerSpec(lr=0.1, **rest)  # type: ignore[arg-type]


# ---- the models of the tasks


def texts(seed: int, count: int) -> Examples:
    generator = torch_generator(seed)
    both = torch.randint(97, (2, count, 6), generator=generator)
    return Examples(both[0], both[1])


def pixels(seed: int, count: int) -> Examples:
    both = torch.rand(2, count, 64, generator=torch_generator(seed))
    return Examples(both[0], both[1])


single = partial(classified, classes=10, dtype=torch.float32)
TASKS = {
    "digits-mlp": (digits.digits(), single(64), (9, 5, 8)),
    "digits-mlp-norm": (digits.digits(model="mlp-norm"), single(64), (9, 6, 8)),
    "digits-cnn": (digits.digits(model="cnn"), single(64), (5, 5)),
    "images-cnn": (Task(name="i", model=lambda: images.cnn(1, 8, 10)), single(1, 8, 8), (5, 4)),
    "images-mlp": (Task(name="i", model=lambda: images.mlp(1, 8, 10)), single(1, 8, 8), (5, 4)),
    "mnist-2nn": (Task(name="m", model=mnist.two_nn), single(1, 28, 28), (5, 4)),
    "mnist-cnn": (Task(name="m", model=mnist.cnn), single(1, 28, 28), (5, 4)),
    "images-cnn-large": (
        Task(name="i", model=lambda: images.cnn(3, 32, 10)),
        single(3, 32, 32),
        (5, 4),
    ),
    "mnist-lenet": (Task(name="m", model=mnist.lenet), single(1, 28, 28), (5, 4)),
    "cifar10-cnn": (cifar10.cifar10(), single(3, 32, 32), (4, 4)),
    "denoising": (replace(denoising.denoising(), augment=None), pixels, (9, 5, 8)),
    "transformer": (
        Task(
            name="text",
            model=lambda: characters.MODELS["transformer"](8, 8, 6),
            loss=characters.mean_cross_entropy,
        ),
        texts,
        (5, 4),
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_tasks_model_learns_as_in_the_loop(name: str):
    task, make, sizes = TASKS[name]
    learner = Learner(task, 1)
    phases = [phase(optimizer=OptimizerSpec(lr=0.02))]
    assert_as_the_loop(learner, jobs_of(learner, sizes, make, phases=phases, spread=0.01), 1e-5)


@pytest.mark.parametrize("model", [mlp, Custom, Net, Counting])
@pytest.mark.parametrize("sizes", [(8, 8, 8), UNEQUAL, (1,)])
def test_any_model_and_any_sizes(model: Callable[[], nn.Module], sizes: tuple[int, ...]):
    if model is Net:
        sizes = tuple(max(2, size) for size in sizes)  # BatchNorm needs two
    learner = Learner(task_of(model), 0)
    assert_as_the_loop(learner, jobs_of(learner, sizes, PLAIN, phases=[phase(epochs=3)]))


def test_a_parameter_that_is_one_number():
    learner = Learner(task_of(scalar_weight, loss=functional.mse_loss), 0)

    def make(seed: int, count: int) -> Examples:
        both = torch.randn(2, count, generator=torch_generator(seed), dtype=torch.float64)
        return Examples(both[0], both[1])

    phases = [phase(optimizer=OptimizerSpec(name="adam", lr=0.1), clip_norm=0.1)]
    assert_as_the_loop(learner, jobs_of(learner, UNEQUAL, make, phases=phases))


def test_results_come_in_the_order_of_the_jobs():
    learner = Learner(task_of(), 0)
    jobs = jobs_of(learner, (2, 9, 5), PLAIN)
    assert [trained.metrics.count for trained in Stack(learner).train(jobs)] == [2, 9, 5]


def test_no_jobs_give_no_results():
    assert Stack(Learner(task_of(), 0)).train([]) == []


# ---- what a strategy adds at the client

OPTIMIZERS = {
    "decay": sgd(weight_decay=0.1),
    "momentum": sgd(momentum=0.9),
    "nesterov": OptimizerSpec(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampening": OptimizerSpec(lr=0.1, momentum=0.9, options={"dampening": 0.5}),
    "adam": OptimizerSpec(name="Adam", lr=0.01),
    "adamw": OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.1),
    "rprop": OptimizerSpec(name="rprop", lr=0.01),
    "asgd": OptimizerSpec(name="asgd", lr=0.1),
    "nadam": OptimizerSpec(name="nadam", lr=0.01),
    "adagrad": OptimizerSpec(name="adagrad", lr=0.1),
}


@pytest.mark.parametrize("model", [mlp, Custom])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_keeps_its_state_by_client(name: str, model: Callable[[], nn.Module]):
    learner = Learner(task_of(model), 0)
    phases = [phase(optimizer=OPTIMIZERS[name], epochs=2)]
    assert_as_the_loop(learner, jobs_of(learner, UNEQUAL, PLAIN, phases=phases))


@pytest.mark.parametrize("model", [mlp, Custom])
@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": None, "steps": 5},
        {"epochs": None, "steps": 1},
        {"epochs": 2, "size": None},
        {"epochs": 0},
        {"clip_norm": 0.3},
        {"clip_norm": 1e-9},
        {"trains": lambda entry: "weight" in entry.name},
        {"trains": lambda entry: "bias" in entry.name, "clip_norm": 0.1},
    ],
    ids=["5 steps", "1 step", "whole", "none", "limit", "low limit", "weights", "biases, limit"],
)
def test_each_kind_of_phase(changes: Mapping[str, object], model: Callable[[], nn.Module]):
    learner = Learner(task_of(model), 0)
    jobs = jobs_of(learner, UNEQUAL, PLAIN, phases=[phase(**changes)])  # type: ignore[arg-type]
    assert_as_the_loop(learner, jobs)


def test_phases_follow_one_another_with_optimizers_of_their_own():
    learner = Learner(task_of(), 0)
    phases = [phase(optimizer=sgd(momentum=0.5)), phase(size=3, clip_norm=1.0), phase(epochs=0)]
    assert_as_the_loop(learner, jobs_of(learner, UNEQUAL, PLAIN, phases=phases))


def vectors(learner: Learner, name: str, scale: float) -> Callable[[int], Mapping[str, Tensor]]:
    size = learner.spec.shared_trainable.stop - learner.spec.shared_trainable.start

    def make(k: int) -> Mapping[str, Tensor]:
        generator = torch_generator(1000 + k)
        return {name: scale * torch.randn(size, generator=generator, dtype=torch.float64)}

    return make


@pytest.mark.parametrize("optimizer", [sgd(), sgd(momentum=0.9)], ids=["plain", "momentum"])
@pytest.mark.parametrize("model", [mlp, Net])
def test_control_variates_and_pulls(model: Callable[[], nn.Module], optimizer: OptimizerSpec):
    learner = Learner(task_of(model), 0)
    own, received = vectors(learner, "scaffold.control", 0.1), vectors(learner, CONTROL, 0.1)(77)
    dynamic = vectors(learner, "feddyn", 0.1)
    name = next(iter(_feddyn_state(learner)))
    jobs = jobs_of(
        learner,
        (9, 2, 4),
        PLAIN,
        phases=[phase(optimizer=optimizer, epochs=2)],
        received=received,
        state=lambda k: {**own(k), name: dynamic(k)["feddyn"]},
        corrections=(*scaffold().corrections, *prox(mu=0.5).corrections, *feddyn().corrections),
        pull=0.51,
    )
    assert_as_the_loop(learner, jobs)


def _feddyn_state(learner: Learner) -> Mapping[str, Tensor]:
    context = LocalContext(spec=learner.spec, sent=learner.initial)
    zeros = torch.zeros_like(learner.initial[learner.spec.shared_trainable])
    (settle,) = feddyn().settlers
    return settle({"params": zeros}, context)


@pytest.mark.parametrize("model", [mlp, Net])
def test_clients_with_and_without_state_are_trained_together(model: Callable[[], nn.Module]):
    learner = Learner(task_of(model), 0)
    own = vectors(learner, "scaffold.control", 0.1)
    jobs = jobs_of(
        learner,
        (9, 2, 4, 5),
        PLAIN,
        received=vectors(learner, CONTROL, 0.1)(77),
        state=lambda k: own(k) if k % 2 else {},
        corrections=scaffold().corrections,
        spread=0.0,
    )
    assert_as_the_loop(learner, jobs)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("model", [mlp, Net])
def test_moons_contrast(model: Callable[[], nn.Module], *, first: bool):
    learner = Learner(task_of(model), 0)

    def last(k: int) -> Mapping[str, Tensor]:
        return {} if first else {"moon.previous": learner.initial * (1.5 + k)}

    jobs = jobs_of(learner, (9, 2, 4), PLAIN, state=last, loss_terms=moon(mu=2.0).loss_terms)
    assert_as_the_loop(learner, jobs)


def test_phases_of_personal_layers():
    strategy = compose(fedavg(), fedrep(head_epochs=2, body_epochs=1))
    task = strategy.adapted(task_of(Net))
    learner = Learner(task, 0)
    assert learner.spec.personal.stop > learner.spec.personal.start
    phases = strategy.phases([phase(optimizer=sgd(momentum=0.5))])
    assert_as_the_loop(learner, jobs_of(learner, (9, 2, 4), PLAIN, phases=phases))


def test_an_impulse_that_nobody_wants_is_not_found_out():
    learner = Learner(task_of(), 0)
    jobs = jobs_of(learner, (4, 3), PLAIN, wants_impulse=False)
    assert [trained.impulse for trained in Stack(learner).train(jobs)] == [None, None]


# ---- losses and targets


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda outputs, targets: outputs.gather(1, targets[:, None]).exp().square().mean(),
    ],
    ids=["mean", "smoothed", "sum", "own"],
)
def test_any_loss_of_classes(loss: Callable[[Tensor, Tensor], Tensor]):
    learner = Learner(task_of(loss=loss), 0)
    phases = [phase(optimizer=OptimizerSpec(lr=0.02))]
    assert_as_the_loop(learner, jobs_of(learner, UNEQUAL, PLAIN, phases=phases))


def test_targets_that_torch_ignores():
    def make(seed: int, count: int) -> Examples:
        drawn = PLAIN(seed, count)
        return Examples(drawn.inputs, drawn.targets.masked_fill(torch.arange(count) == 1, -100))

    learner = Learner(task_of(), 0)
    assert_as_the_loop(learner, jobs_of(learner, (9, 5, 6), make, phases=[phase(size=3)]))


def test_targets_that_are_probabilities():
    def make(seed: int, count: int) -> Examples:
        drawn = PLAIN(seed, count)
        return Examples(drawn.inputs, drawn.inputs[:, :2].softmax(dim=1))

    learner = Learner(task_of(), 0)
    assert_as_the_loop(learner, jobs_of(learner, UNEQUAL, make))


# ---- padding


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_what_one_client_holds_never_reaches_another(bad: float):
    def make(seed: int, count: int) -> Examples:
        drawn = PLAIN(seed, count)
        return replace(drawn, inputs=torch.full_like(drawn.inputs, bad)) if seed == 1 else drawn

    learner = Learner(task_of(), 0)
    jobs = jobs_of(learner, (9, 3, 7), make, phases=[phase(epochs=2)])
    others = [jobs[0], jobs[2]]
    found = Stack(learner).train(jobs)
    for trained, job in zip([found[0], found[2]], others, strict=True):
        expected = learner.train(job)
        torch.testing.assert_close(trained.vector, expected.vector, rtol=1e-10, atol=1e-12)
    assert not torch.isfinite(found[1].vector).all()


def test_memory_that_was_never_written_is_never_read(monkeypatch: pytest.MonkeyPatch):
    def poisoned(self: Tensor, shape: tuple[int, ...], **rest: object) -> Tensor:
        value = float("nan") if self.is_floating_point() else 1 << 40
        return self.new_full(shape, value)

    learner = Learner(task_of(), 0)
    jobs = jobs_of(learner, UNEQUAL, PLAIN, phases=[phase(epochs=2)])
    expected = [learner.train(job) for job in jobs]
    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    for found, wanted in zip(Stack(learner).train(jobs), expected, strict=True):
        torch.testing.assert_close(found.vector, wanted.vector, rtol=1e-10, atol=1e-12)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    batch_size=st.one_of(st.none(), st.integers(1, 13)),
    lengths=st.one_of(
        st.builds(lambda n: {"epochs": n}, st.integers(0, 3)),
        st.builds(lambda n: {"epochs": None, "steps": n}, st.integers(0, 9)),
    ),
    model=st.sampled_from([mlp, Custom]),
    momentum=st.sampled_from([0.0, 0.5]),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_whatever_the_sizes(
    sizes: list[int],
    batch_size: int | None,
    lengths: Mapping[str, int | None],
    model: Callable[[], nn.Module],
    momentum: float,
):
    learner = Learner(task_of(model), 0)
    phases = [phase(size=batch_size, optimizer=sgd(momentum=momentum), **lengths)]
    assert_as_the_loop(learner, jobs_of(learner, sizes, PLAIN, phases=phases))


# ---- randomness


class Wrapped(nn.Module):
    """A chain that does not look like one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = dropping()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def dropping() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.25), nn.Linear(400, 1, bias=False))


@pytest.mark.parametrize("model", [dropping, Wrapped])
def test_dropout_differs_by_client_and_keeps_the_mean(model: Callable[[], nn.Module]):
    # The loss is the mean output: its gradient is what dropout made of inputs that are all ones.
    task = task_of(model, loss=lambda outputs, _targets: outputs.mean())
    learner = Learner(task, 0)

    def ones(_seed: int, count: int) -> Examples:
        return Examples(torch.ones(count, 400, dtype=torch.float64), torch.zeros(count))

    jobs = jobs_of(learner, (1,) * 8, ones, spread=0.0, phases=[phase(optimizer=sgd())])
    found = Stack(learner).train(jobs)
    factors = torch.stack([(learner.initial - trained.vector) / 0.1 for trained in found])
    values = sorted({round(value, 6) for value in factors.flatten().tolist()})
    assert values == [0.0, pytest.approx(4 / 3, abs=1e-5)]
    assert len({tuple(row.round().tolist()) for row in factors}) == 8
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.05)  # 4 standard deviations: 0.04
    again = Stack(learner).train(jobs)
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(found, again, strict=True))
    other = Stack(learner).train([replace(job, seed=job.seed + 50) for job in jobs])
    assert not torch.equal(found[0].vector, other[0].vector)


def test_nobody_elses_generators_move():
    learner = Learner(task_of(dropping, loss=lambda outputs, _targets: outputs.mean()), 0)
    before = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    Stack(learner).train(jobs_of(learner, (3, 5), classified(400)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002


def test_augmentation_sees_one_clients_batch_at_a_time():
    seen: list[float] = []

    def shifted(batch: Examples) -> Examples:
        seen.append(float(batch.inputs.mean()))
        return replace(batch, inputs=batch.inputs - batch.inputs.mean())

    learner = Learner(task_of(augment=shifted), 0)
    jobs = jobs_of(learner, UNEQUAL, PLAIN, phases=[phase(epochs=2)])
    Stack(learner).train(jobs)
    stacked, seen[:] = sorted(seen), []
    for job in jobs:
        learner.train(job)
    assert stacked == pytest.approx(sorted(seen))
    assert_as_the_loop(learner, jobs)


def test_augmentation_may_change_shapes():
    def halved(batch: Examples) -> Examples:
        return Examples(batch.inputs[::2], batch.targets[::2])

    learner = Learner(task_of(augment=halved), 0)
    assert_as_the_loop(learner, jobs_of(learner, UNEQUAL, PLAIN))


# ---- what goes wrong


def test_jobs_that_differ_are_trained_apart():
    learner = Learner(task_of(), 0)
    slow, quick = (jobs_of(learner, (5, 3), PLAIN, phases=[phase(epochs=n)]) for n in (1, 2))
    assert_as_the_loop(learner, [slow[0], quick[0], slow[1], quick[1]])


def test_a_client_without_examples_is_refused_as_in_the_loop():
    learner = Learner(task_of(), 0)
    with pytest.raises(DataError, match="there are no training examples"):
        Stack(learner).train(jobs_of(learner, (3, 0), PLAIN))


def test_a_vector_that_does_not_fit_is_refused_as_in_the_loop():
    learner = Learner(task_of(), 0)
    jobs = jobs_of(learner, (3,), PLAIN)
    longer = replace(jobs[0].context, sent=torch.zeros(99))
    with pytest.raises(ParameterError, match="does not fit this model"):
        Stack(learner).train([replace(jobs[0], context=longer)])


def test_a_phase_that_moves_nothing_is_refused_as_in_the_loop():
    learner = Learner(task_of(), 0)
    with pytest.raises(ParameterError, match="a phase moves no tensor"):
        Stack(learner).train(jobs_of(learner, (3,), PLAIN, phases=[phase(trains=lambda _e: False)]))


def test_an_optimizer_that_refuses_its_options_is_refused_as_in_the_loop():
    learner = Learner(task_of(), 0)
    phases = [phase(optimizer=OptimizerSpec(name="adam", options={"betas": [2.0, 0.9]}))]
    with pytest.raises(ConfigError, match="refuses its options"):
        Stack(learner).train(jobs_of(learner, (3,), PLAIN, phases=phases))


def test_a_learner_trains_and_evaluates_as_before_afterwards():
    learner = Learner(task_of(Net), 0)
    (job,) = jobs_of(learner, (6,), PLAIN)
    before = learner.train(job).vector, learner.evaluate(learner.initial, job.integers, PLAIN(3, 5))
    Stack(learner).train([job, job])
    after = learner.train(job).vector, learner.evaluate(learner.initial, job.integers, PLAIN(3, 5))
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
