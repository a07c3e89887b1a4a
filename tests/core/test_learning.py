"""The learning loop, held against plain PyTorch."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core import learning
from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError, ParameterError
from roundel.core.job import Batch, LocalContext, LocalJob, Phase, Trained, batches
from roundel.core.learning import Learner
from roundel.core.metrics import Metrics, regression
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import Entry
from roundel.core.seeds import isolated_rng, torch_generator
from roundel.core.task import Task


class Net(nn.Module):
    """Two layers, a norm between them, and dropout that is off unless asked for."""

    def __init__(self, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.dropout(self.norm(self.body(inputs)).tanh())
        outputs: Tensor = self.head(hidden)
        return outputs


class OneWeight(nn.Module):
    """``w x`` from w = 0, so that everything can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w * inputs


NET = Task(name="net", model=Net)
NORMED = Task(name="normed", model=lambda: Net(norm=True))
BY_HAND = Task(name="by hand", model=OneWeight, loss=functional.mse_loss, metrics=regression)
PLAIN = OptimizerSpec(lr=0.1)
HEAVY = OptimizerSpec(lr=0.1, momentum=0.9, weight_decay=0.01)


def some_examples(count: int = 10, seed: int = 0) -> Examples:
    generator = torch_generator(seed)
    inputs = torch.randn(count, 3, generator=generator)
    return Examples(inputs, torch.randint(2, (count,), generator=generator))


def make_job(learner: Learner, examples: Examples, *phases: Phase, **rest: Any) -> LocalJob:
    return LocalJob(
        context=LocalContext(spec=learner.spec, sent=learner.initial),
        integers=learner.initial_integers,
        examples=examples,
        phases=phases,
        **rest,
    )


def plain_loop(
    task: Task,
    examples: Examples,
    phase: Phase,
    *,
    seed: int,
    term: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    **options: Any,
) -> nn.Module:
    """Train as one would without this package."""
    model = task.new_model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=phase.optimizer.lr, **options)
    generator = torch.Generator().manual_seed(seed)
    assert phase.epochs is not None
    assert phase.batch_size is not None
    for _ in range(phase.epochs):
        for rows in torch.randperm(len(examples), generator=generator).split(phase.batch_size):
            optimizer.zero_grad()
            outputs = model(examples.inputs[rows])
            loss = task.loss(outputs, examples.targets[rows])
            if term is not None:
                loss = loss + term(model, examples.inputs[rows], outputs)
            loss.backward()
            if phase.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), phase.clip_norm)
            optimizer.step()
    return model


def assert_same(trained: Trained, learner: Learner, model: nn.Module, atol: float = 0.0) -> None:
    vector, integers = learner.spec.read(model)
    assert torch.allclose(trained.vector, vector, rtol=0, atol=atol)
    assert torch.equal(trained.integers, integers)


def identical(one: Trained, two: Trained) -> bool:
    return (
        torch.equal(one.vector, two.vector)
        and torch.equal(one.integers, two.integers)
        and one.metrics == two.metrics
    )


@pytest.mark.parametrize("task", [NET, NORMED], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (PLAIN, {}),
        (HEAVY, {"momentum": 0.9, "weight_decay": 0.01}),
        (
            OptimizerSpec(lr=0.1, momentum=0.5, nesterov=True),
            {"momentum": 0.5, "nesterov": True},
        ),
    ],
    ids=["plain", "heavy", "nesterov"],
)
def test_training_equals_a_plain_pytorch_loop_bit_for_bit(
    task: Task, optimizer: OptimizerSpec, options: Mapping[str, Any]
) -> None:
    learner = Learner(task, seed=0)
    examples = some_examples(10)
    phase = Phase(optimizer=optimizer, epochs=3, batch_size=4)
    trained = learner.train(make_job(learner, examples, phase, seed=5))
    assert_same(trained, learner, plain_loop(task, examples, phase, seed=5, **options))


def test_another_seed_is_another_order() -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(batch_size=2)
    one, two = (learner.train(make_job(learner, some_examples(), phase, seed=s)) for s in (1, 2))
    assert not torch.equal(one.vector, two.vector)


def test_a_second_phase_goes_on_with_the_order_of_the_first_and_a_new_optimizer() -> None:
    learner = Learner(NET, seed=0)
    plain = Phase(optimizer=PLAIN, batch_size=4)
    twice = learner.train(make_job(learner, some_examples(), plain, plain))
    once = learner.train(
        make_job(learner, some_examples(), Phase(optimizer=PLAIN, epochs=2, batch_size=4))
    )
    assert torch.equal(twice.vector, once.vector)
    assert twice.steps == (3, 3)
    assert once.steps == (6,)
    heavy = Phase(optimizer=HEAVY, batch_size=4)
    restarted = learner.train(make_job(learner, some_examples(), heavy, heavy))
    going_on = learner.train(
        make_job(learner, some_examples(), Phase(optimizer=HEAVY, epochs=2, batch_size=4))
    )
    assert not torch.equal(restarted.vector, going_on.vector)


@pytest.mark.parametrize(
    ("phase", "steps"),
    [
        (Phase(epochs=1, batch_size=4), 3),
        (Phase(epochs=2, batch_size=5), 4),
        (Phase(epochs=3, batch_size=None), 3),
        (Phase(epochs=3, batch_size=10), 3),
        (Phase(epochs=3, batch_size=99), 3),
        (Phase(epochs=None, steps=1, batch_size=4), 1),
        (Phase(epochs=None, steps=7, batch_size=4), 7),
        (Phase(epochs=None, steps=2, batch_size=None), 2),
        (Phase(epochs=0), 0),
        (Phase(epochs=None, steps=0), 0),
    ],
    ids=str,
)
def test_epochs_or_steps_decide_how_many_steps_are_taken(phase: Phase, steps: int) -> None:
    assert phase.step_count(10) == steps
    assert len(list(batches(some_examples(10), phase, torch_generator(0)))) == steps
    learner = Learner(NET, seed=0)
    assert learner.train(make_job(learner, some_examples(10), phase)).steps == (steps,)


def test_only_batch_norm_needs_two_examples_a_batch() -> None:
    assert Learner(NORMED, seed=0).smallest_batch == 2
    assert Learner(NET, seed=0).smallest_batch == 1
    grouped = Task(name="grouped", model=lambda: nn.Sequential(nn.GroupNorm(1, 3), nn.Linear(3, 2)))
    assert Learner(grouped, seed=0).smallest_batch == 1


def test_batch_norm_trains_where_the_last_batch_would_be_a_single_example() -> None:
    learner = Learner(NORMED, seed=0)
    trained = learner.train(make_job(learner, some_examples(9), Phase(epochs=3, batch_size=4)))
    assert trained.steps == (6,)
    assert trained.integers.tolist() == [6]
    assert trained.metrics.count == 27


def test_no_steps_change_nothing() -> None:
    learner = Learner(NORMED, seed=0)
    trained = learner.train(make_job(learner, some_examples(), Phase(epochs=0)))
    assert torch.equal(trained.vector, learner.initial)
    assert (trained.metrics, trained.impulse) == (Metrics(), 0.0)
    nothing = learner.train(make_job(learner, some_examples()))
    assert (nothing.metrics, nothing.steps, nothing.impulse) == (Metrics(), (), 0.0)


def test_the_training_loss_covers_every_example_trained_on_repeats_included() -> None:
    # w = 0: losses 1, 4, 9. The gradient is -4, so w = 2: losses 1, 0, 1.
    learner = Learner(BY_HAND, seed=0)
    examples = Examples(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
    phase = Phase(optimizer=OptimizerSpec(lr=0.5), epochs=2, batch_size=None)
    trained = learner.train(make_job(learner, examples, phase))
    assert trained.metrics.count == 6
    assert trained.metrics.sums == pytest.approx({"loss": 16.0}, rel=1e-6)
    assert trained.vector.tolist() == [2.0]


def test_a_small_last_batch_weighs_as_little_as_it_is() -> None:
    # At lr = 0 every example keeps its loss: 1, 4 and 9, whatever the batches.
    learner = Learner(BY_HAND, seed=0)
    examples = Examples(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
    phase = Phase(optimizer=OptimizerSpec(lr=0.0), batch_size=2)
    assert learner.train(make_job(learner, examples, phase)).metrics == Metrics({"loss": 14.0}, 3)


def test_loss_terms_are_no_part_of_the_reported_loss() -> None:
    learner = Learner(BY_HAND, seed=0)
    examples = Examples(torch.ones(1), torch.tensor([3.0]))
    job = make_job(learner, examples, Phase(), loss_terms=[lambda batch: 100 + batch.outputs.sum()])
    assert learner.train(job).metrics == Metrics({"loss": 9.0}, 1)


def test_an_optimizer_that_looks_twice_counts_both_looks() -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(optimizer=OptimizerSpec(name="lbfgs", options={"max_iter": 3}), batch_size=None)
    trained = learner.train(make_job(learner, some_examples(10), phase))
    assert trained.steps == (1,)
    assert trained.metrics.count == 30


def test_no_training_examples_are_an_error_of_the_data() -> None:
    learner = Learner(NET, seed=0)
    with pytest.raises(DataError, match="there are no training examples: give the client some"):
        learner.train(make_job(learner, some_examples(0), Phase()))


def unclipped(learner: Learner, **rest: Any) -> Tensor:
    job = make_job(learner, some_examples(), Phase(), **rest)
    learner.load(learner.initial, learner.initial_integers, training=True)
    return learner.gradient(job.examples, job)[1]


def clipped(learner: Learner, clip_norm: float, **rest: Any) -> Tensor:
    """The gradient of one step, as plain SGD at a learning rate of 1 shows it."""
    phase = Phase(optimizer=OptimizerSpec(lr=1.0), batch_size=None, clip_norm=clip_norm)
    trained = learner.train(make_job(learner, some_examples(), phase, **rest))
    return learner.initial - trained.vector


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    learner = Learner(NET, seed=0)
    gradient = unclipped(learner)
    short = clipped(learner, 0.01)
    assert short.norm().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(short / short.norm(), gradient / gradient.norm(), atol=1e-4)


def test_clipping_leaves_a_short_gradient_as_it_is() -> None:
    learner = Learner(NET, seed=0)
    assert torch.allclose(clipped(learner, 100.0), unclipped(learner), atol=1e-6)


def test_a_zero_gradient_survives_clipping() -> None:
    learner = Learner(NET, seed=0)
    zero = clipped(learner, 1.0, corrections=[lambda g, _x, _context: 0 * g])
    assert torch.equal(zero, torch.zeros_like(zero))


def test_clipping_comes_after_the_corrections() -> None:
    learner = Learner(NET, seed=0)
    short = clipped(learner, 1.0, corrections=[lambda g, _x, _context: 1000 * g])
    assert short.norm().item() == pytest.approx(1.0, rel=1e-6)


def test_clipping_counts_only_what_a_phase_moves() -> None:
    learner = Learner(NET, seed=0)
    rate = OptimizerSpec(lr=1.0)
    phase = Phase(optimizer=rate, batch_size=None, clip_norm=0.01, trains=is_head)
    trained = learner.train(make_job(learner, some_examples(), phase))
    assert (learner.initial - trained.vector).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_a_buffer_outside_the_state_dict_does_not_leak_to_the_next_client() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.seen: Tensor
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, inputs: Tensor) -> Tensor:
            self.seen += 1
            return self.head(inputs) * self.seen

    learner = Learner(Task(name="counting", model=Counting), seed=0)
    job = make_job(learner, some_examples(), Phase(optimizer=PLAIN))
    assert identical(learner.train(job), learner.train(job))


def test_training_with_clipping_equals_clip_grad_norm() -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(optimizer=PLAIN, epochs=2, batch_size=4, clip_norm=0.05)
    trained = learner.train(make_job(learner, some_examples(), phase, seed=3))
    assert_same(trained, learner, plain_loop(NET, some_examples(), phase, seed=3), atol=1e-6)


def test_how_many_examples_were_in_clipped_batches_is_counted() -> None:
    # w = 0 at lr 0: the gradient of an example is -2 times its target, of norm 2, 4 and 6.
    learner = Learner(BY_HAND, seed=0)
    examples = Examples(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))

    def share(limit: float | None) -> float | None:
        still = OptimizerSpec(lr=0.0)
        phase = Phase(optimizer=still, epochs=2, batch_size=1, clip_norm=limit)
        return learner.train(make_job(learner, examples, phase)).metrics.means().get("clipped")

    assert [share(limit) for limit in (7.0, 5.0, 1.0)] == pytest.approx([0, 1 / 3, 1])
    assert share(4.0) == pytest.approx(1 / 3)  # what is just as long as the limit is not clipped
    assert share(None) is None


# ---- augmentation


def noisy(batch: Examples) -> Examples:
    return Examples(batch.inputs + torch.randn_like(batch.inputs), batch.targets)


AUGMENTED = replace(NORMED, augment=noisy)


def test_augmentation_is_fixed_by_the_generator_and_another_one_draws_others() -> None:
    learner = Learner(AUGMENTED, seed=0)
    job = make_job(learner, some_examples(), Phase(epochs=2, batch_size=4))

    def train(seed: int) -> Trained:
        with isolated_rng(seed):
            return learner.train(job)

    first = train(1)
    assert identical(train(1), first)
    assert not identical(train(2), first)
    plain = Learner(NORMED, seed=0)
    assert not identical(plain.train(job), first)


def test_each_batch_of_each_epoch_is_augmented_once_after_it_was_drawn() -> None:
    seen: list[list[float]] = []

    def shift(batch: Examples) -> Examples:
        seen.append(batch.inputs.tolist())
        return Examples(batch.inputs + 100.0, batch.targets + 100.0)

    # Shifted alike, w = 1 leaves no error; lr = 0 would leave it where it is.
    learner = Learner(replace(BY_HAND, augment=shift), seed=0)
    examples = Examples(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    still = Phase(optimizer=OptimizerSpec(lr=0.0), epochs=2, batch_size=2)
    metrics = learner.train(make_job(learner, examples, still, seed=4)).metrics
    drawn = [b.inputs.tolist() for b in batches(examples, still, torch_generator(4))]
    assert seen == drawn
    assert metrics == Metrics({"loss": 2 * (101.0**2 + 102.0**2 + 103.0**2)}, 6)


def test_evaluation_sees_examples_as_they_are() -> None:
    plain, augmented = Learner(NORMED, seed=0), Learner(AUGMENTED, seed=0)
    one, other = (
        learner.evaluate(learner.initial, learner.initial_integers, some_examples())
        for learner in (plain, augmented)
    )
    assert one == other


# ---- other initial parameters


class PartlyFrozen(Net):
    """Its body is not trained, so it is in no vector."""

    def __init__(self) -> None:
        super().__init__(norm=True)
        self.body.requires_grad_(requires_grad=False)


FROZEN = Task(name="frozen", model=PartlyFrozen)


def state_of(task: Task, seed: int) -> dict[str, Tensor]:
    model = task.new_model(seed)
    return {name: tensor + 1 for name, tensor in model.state_dict().items()}


def test_a_learner_starts_from_given_parameters_buffers_and_counters() -> None:
    given = state_of(NORMED, seed=5)
    learner = Learner(NORMED, seed=0)
    learner.start_from(given, "there")
    views = learner.spec.views(learner.initial)
    assert all(torch.equal(views[name], given[name]) for name in views)
    assert learner.initial_integers.tolist() == [1]
    trained = learner.train(make_job(learner, some_examples(), Phase()))
    assert not torch.equal(trained.vector, learner.initial)
    assert torch.equal(learner.spec.views(learner.initial)["head.bias"], given["head.bias"])


def test_frozen_parameters_come_along_and_stay() -> None:
    given = state_of(FROZEN, seed=5)
    learner = Learner(FROZEN, seed=0)
    learner.start_from(given, "there")
    learner.train(make_job(learner, some_examples(), Phase(epochs=2)))
    assert torch.equal(learner.model.state_dict()["body.weight"], given["body.weight"])
    assert "body.weight" not in [entry.name for entry in learner.spec.entries]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head.bias": None}, "it lacks 'head.bias'"),
        ({"haed.bias": torch.zeros(2)}, "it has 'haed.bias', which the model has not"),
        ({"head.bias": torch.zeros(3)}, "'head.bias' is 3 where the model has 2"),
    ],
    ids=["missing", "unexpected", "wrong shape"],
)
def test_parameters_that_do_not_fit_are_refused_in_one_sentence(
    change: dict[str, Tensor | None], reason: str
) -> None:
    given = {**state_of(NET, seed=5), **change}
    learner = Learner(NET, seed=0)
    with pytest.raises(ParameterError) as caught:
        learner.start_from({n: t for n, t in given.items() if t is not None}, "model.safetensors")
    assert str(caught.value) == (
        f"model.safetensors does not fit the model: {reason}; name the task, the model and the "
        "adapters that it was trained with, or start from another one"
    )


def test_corrections_are_applied_in_their_order() -> None:
    learner = Learner(NET, seed=0)
    gradient = unclipped(learner)

    def double(g: Tensor, _x: Tensor, _context: LocalContext) -> Tensor:
        return 2 * g

    def increment(g: Tensor, _x: Tensor, _context: LocalContext) -> Tensor:
        return g + 1

    assert torch.equal(unclipped(learner, corrections=[double, increment]), 2 * gradient + 1)
    assert torch.equal(unclipped(learner, corrections=[increment, double]), 2 * (gradient + 1))


def test_a_correction_sees_the_trainable_point_and_the_context() -> None:
    learner = Learner(NORMED, seed=0)
    seen: list[tuple[Tensor, LocalContext]] = []

    def look(g: Tensor, x: Tensor, context: LocalContext) -> Tensor:
        seen.append((x.clone(), context))
        assert not g.requires_grad
        return g

    job = make_job(learner, some_examples(), Phase(epochs=2, batch_size=None), corrections=[look])
    trained = learner.train(job)
    (first, context), (second, _) = seen
    assert torch.equal(first, learner.initial[learner.spec.trainable])
    assert torch.equal(first, context.sent_trainable)
    assert not torch.equal(second, first)
    assert not torch.equal(second, trained.vector[learner.spec.trainable])
    assert context is job.context


MU = 0.5


def proximal_correction(g: Tensor, x: Tensor, context: LocalContext) -> Tensor:
    return g + MU * (x - context.sent_trainable)


def proximal_term(batch: Batch) -> Tensor:
    sent = batch.context.spec.views(batch.context.sent)
    distances = [(batch.params[name] - sent[name]).square().sum() for name in batch.params]
    return MU / 2 * torch.stack(distances).sum()


def test_a_proximal_correction_equals_a_proximal_loss_term() -> None:
    learner = Learner(NORMED, seed=0)
    phase = Phase(optimizer=HEAVY, epochs=3, batch_size=4)
    as_correction = learner.train(
        make_job(learner, some_examples(), phase, corrections=[proximal_correction])
    )
    as_term = learner.train(make_job(learner, some_examples(), phase, loss_terms=[proximal_term]))
    neither = learner.train(make_job(learner, some_examples(), phase))
    assert torch.allclose(as_correction.vector, as_term.vector, rtol=0, atol=1e-6)
    assert not torch.allclose(as_correction.vector, neither.vector, rtol=0, atol=1e-3)


def distillation(batch: Batch) -> Tensor:
    """Stay close to what the parameters as sent make of the same inputs."""
    sent = batch.apply(batch.context.spec.views(batch.context.sent), batch.inputs)
    return (batch.outputs - sent).square().mean()


def test_a_loss_term_may_run_the_model_with_the_parameters_as_sent() -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(optimizer=PLAIN, epochs=3, batch_size=4)
    trained = learner.train(
        make_job(learner, some_examples(), phase, loss_terms=[distillation], seed=2)
    )
    teacher = NET.new_model(0).requires_grad_(requires_grad=False)

    def term(_model: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
        squares: Tensor = (outputs - teacher(inputs)).square()
        return squares.mean()

    assert_same(trained, learner, plain_loop(NET, some_examples(), phase, seed=2, term=term))


def test_running_the_model_with_other_tensors_changes_no_buffer() -> None:
    learner = Learner(NORMED, seed=0)
    sent = learner.initial.clone()
    phase = Phase(batch_size=None)
    with_term = learner.train(
        make_job(
            learner, some_examples(), phase, loss_terms=[lambda batch: 0 * distillation(batch)]
        )
    )
    without = learner.train(make_job(learner, some_examples(), phase))
    assert torch.equal(learner.initial, sent)
    assert torch.equal(with_term.vector, without.vector)
    assert with_term.integers.tolist() == [1]


def test_gradients_flow_through_applied_tensors() -> None:
    learner = Learner(NET, seed=0)
    gradient = unclipped(learner)
    twice = unclipped(
        learner,
        loss_terms=[
            lambda b: functional.cross_entropy(b.apply(b.params, b.inputs), b.targets),
        ],
    )
    assert torch.allclose(twice, 2 * gradient, atol=1e-6)


def is_head(entry: Entry) -> bool:
    name = entry.name
    return name.startswith("head")


def is_body(entry: Entry) -> bool:
    return not is_head(entry)


@pytest.mark.parametrize("optimizer", [HEAVY, OptimizerSpec(name="adamw", weight_decay=0.1)])
@pytest.mark.parametrize("trains", [is_head, is_body])
def test_a_phase_moves_its_own_tensors_and_no_bit_of_others(
    optimizer: OptimizerSpec, trains: Callable[[Entry], bool]
) -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(optimizer=optimizer, epochs=2, batch_size=4, trains=trains)
    trained = learner.train(make_job(learner, some_examples(), phase))
    for entry in learner.spec.entries:
        where = learner.spec.slice_of(entry.name)
        same = torch.equal(trained.vector[where], learner.initial[where])
        assert same != trains(entry), entry.name


def test_phases_run_one_after_another() -> None:
    learner = Learner(NET, seed=0)
    head = Phase(optimizer=HEAVY, batch_size=None, trains=is_head)
    body = Phase(optimizer=PLAIN, batch_size=None, trains=is_body)
    both = learner.train(make_job(learner, some_examples(), head, body))
    after_head = learner.train(make_job(learner, some_examples(), head))
    going_on = LocalJob(
        context=LocalContext(spec=learner.spec, sent=after_head.vector),
        integers=after_head.integers,
        examples=some_examples(),
        phases=[body],
    )
    assert torch.equal(both.vector, learner.train(going_on).vector)
    assert both.metrics == after_head.metrics + learner.train(going_on).metrics


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_phase_that_would_move_nothing_is_refused(name: str) -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(
        optimizer=OptimizerSpec(name=name), trains=lambda entry: entry.name == "haed.weight"
    )
    with pytest.raises(ParameterError, match=r"matches none of body\.weight, body\.bias, head"):
        learner.train(make_job(learner, some_examples(), phase))


def test_phases_can_be_checked_before_any_training() -> None:
    learner = Learner(NET, seed=0)
    muon = OptimizerSpec(name="muon", lr=0.02)
    matrices = Phase(optimizer=muon, trains=lambda entry: entry.name.endswith("weight"))
    learner.check([Phase(), matrices])
    assert torch.equal(learner.vector, learner.initial)
    with pytest.raises(ConfigError, match="'muon' refuses its options"):
        learner.check([Phase(), Phase(optimizer=muon)])
    with pytest.raises(ParameterError, match="a phase moves no tensor"):
        learner.check([Phase(trains=lambda _name: False)])


class JustNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.norm(inputs)
        return outputs


def test_running_statistics_and_counters_are_part_of_what_was_trained() -> None:
    # Inputs 1 and 3: mean 2 and variance 2, of which a tenth enters at each step.
    learner = Learner(Task(name="norm", model=JustNorm, loss=functional.mse_loss), seed=0)
    examples = Examples(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
    trained = learner.train(make_job(learner, examples, Phase(batch_size=None)))
    assert trained.vector[:2].tolist() == pytest.approx([0.2, 1.1])
    assert trained.integers.tolist() == [1]
    again = learner.train(make_job(learner, examples, Phase(epochs=4, batch_size=None)))
    assert again.integers.tolist() == [4]
    assert learner.initial_integers.tolist() == [0]


def test_the_counters_go_on_from_what_was_sent() -> None:
    learner = Learner(NORMED, seed=0)
    job = LocalJob(
        context=LocalContext(spec=learner.spec, sent=learner.initial),
        integers=torch.tensor([41]),
        examples=some_examples(),
        phases=[Phase(batch_size=None)],
    )
    assert learner.train(job).integers.tolist() == [42]
    assert job.integers.tolist() == [41]


def test_training_does_not_change_what_it_was_given() -> None:
    learner = Learner(NORMED, seed=0)
    examples = some_examples()
    job = make_job(learner, examples, Phase(optimizer=HEAVY))
    before = [t.clone() for t in (job.context.sent, job.integers, examples.inputs)]
    learner.train(job)
    after = [job.context.sent, job.integers, examples.inputs]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_training_returned_stays_as_it_was() -> None:
    learner = Learner(NORMED, seed=0)
    trained = learner.train(make_job(learner, some_examples(), Phase()))
    vector, integers = trained.vector.clone(), trained.integers.clone()
    learner.train(make_job(learner, some_examples(seed=1), Phase(epochs=3)))
    assert torch.equal(trained.vector, vector)
    assert torch.equal(trained.integers, integers)


@pytest.mark.parametrize(
    "optimizer",
    [
        HEAVY,
        OptimizerSpec(name="adam", lr=0.05),
        OptimizerSpec(name="lbfgs", lr=0.05, options={"max_iter": 2}),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_nothing_leaks_from_one_client_to_the_next(optimizer: OptimizerSpec) -> None:
    phase = Phase(optimizer=optimizer, epochs=2, batch_size=4)
    fresh = Learner(NORMED, seed=0)
    alone = fresh.train(make_job(fresh, some_examples(seed=2), phase, seed=2))

    used = Learner(NORMED, seed=0)
    used.train(make_job(used, some_examples(seed=1), phase, seed=1))
    used.evaluate(used.initial, used.initial_integers, some_examples(seed=1))
    assert identical(used.train(make_job(used, some_examples(seed=2), phase, seed=2)), alone)


def test_a_client_that_fails_halfway_leaves_nothing_behind() -> None:
    phase = Phase(optimizer=HEAVY, epochs=2, batch_size=4)
    learner = Learner(NORMED, seed=0)
    alone = learner.train(make_job(learner, some_examples(seed=2), phase))

    steps = iter(range(3))

    def fail(g: Tensor, _x: Tensor, _context: LocalContext) -> Tensor:
        next(steps)
        return g

    with pytest.raises(StopIteration):
        learner.train(make_job(learner, some_examples(seed=1), phase, corrections=[fail]))
    assert identical(learner.train(make_job(learner, some_examples(seed=2), phase)), alone)


def test_dropout_is_reproducible_under_an_isolated_generator() -> None:
    learner = Learner(Task(name="drop", model=lambda: Net(dropout=0.5)), seed=0)
    job = make_job(learner, some_examples(), Phase(epochs=2, batch_size=4))

    def train(seed: int) -> Trained:
        with isolated_rng(seed):
            return learner.train(job)

    first = train(1)
    assert not identical(train(2), first)
    assert identical(train(1), first)


def half_evaluating() -> Net:
    model = Net(norm=True)
    model.norm.eval()
    return model


def test_whether_a_client_was_evaluated_before_does_not_change_its_training() -> None:
    learner = Learner(Task(name="half", model=half_evaluating), seed=0)
    job = make_job(learner, some_examples(), Phase())
    before = learner.train(job)
    learner.evaluate(learner.initial, learner.initial_integers, some_examples())
    assert identical(learner.train(job), before)
    assert before.integers.tolist() == [1]


def test_evaluation_sums_loss_and_metrics_over_all_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learning, "EVALUATION_BATCH", 4)
    learner = Learner(NORMED, seed=0)
    examples = some_examples(10)
    metrics = learner.evaluate(learner.initial, learner.initial_integers, examples)
    outputs = NORMED.new_model(0).eval()(examples.inputs)
    loss = functional.cross_entropy(outputs, examples.targets, reduction="sum").item()
    right = (outputs.argmax(1) == examples.targets).sum().item()
    assert metrics.count == 10
    counts = {name: value for name, value in metrics.sums.items() if "/" in name}
    figures = {name: value for name, value in metrics.sums.items() if "/" not in name}
    assert figures == pytest.approx({"loss": loss, "accuracy": right}, rel=1e-6)
    pairs = Counter(zip(examples.targets.tolist(), outputs.argmax(1).tolist(), strict=True))
    assert counts == {f"confusion/{true}/{taken}": n for (true, taken), n in pairs.items()}


def test_evaluation_by_hand() -> None:
    learner = Learner(BY_HAND, seed=0)
    examples = Examples(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    metrics = learner.evaluate(torch.tensor([2.0]), learner.initial_integers, examples)
    assert metrics == Metrics({"loss": 2.0, "mae": 2.0}, 2)


def test_evaluating_no_examples_gives_empty_sums() -> None:
    learner = Learner(NET, seed=0)
    assert (
        learner.evaluate(learner.initial, learner.initial_integers, some_examples(0)) == Metrics()
    )


def test_evaluation_leaves_no_trace() -> None:
    learner = Learner(NORMED, seed=0)
    vector = learner.initial + 1
    before = vector.clone()
    learner.evaluate(vector, learner.initial_integers, some_examples())
    assert torch.equal(vector, before)
    assert torch.equal(learner.vector, before)
    assert learner.integers().tolist() == [0]
    assert all(p.grad is None for p in learner.model.parameters())


def test_the_impulse_is_summed_over_the_phases() -> None:
    learner = Learner(NET, seed=0)
    one = Phase(optimizer=OptimizerSpec(lr=0.5), epochs=None, steps=2)
    two = Phase(optimizer=OptimizerSpec(lr=0.25, momentum=0.5), epochs=None, steps=3)
    trained = learner.train(make_job(learner, some_examples(), one, two))
    assert trained.impulse == 0.5 * 2 + 0.25 * (1 + 1.5 + 1.75)


def test_there_is_no_impulse_where_shared_coordinates_move_differently() -> None:
    learner = Learner(NET, seed=0)
    phase = Phase(trains=is_head)
    assert learner.train(make_job(learner, some_examples(), Phase(), phase)).impulse is None


def test_phases_that_move_personal_layers_alone_leave_the_impulse_of_the_others() -> None:
    task = replace(NET, personal=lambda name: name.startswith("head"))
    learner = Learner(task, seed=0)
    head = Phase(optimizer=OptimizerSpec(lr=0.5), trains=lambda entry: entry.personal, steps=2)
    body = Phase(optimizer=OptimizerSpec(lr=0.25), trains=lambda entry: not entry.personal, steps=3)
    phases = [replace(phase, epochs=None) for phase in (head, body)]
    assert learner.train(make_job(learner, some_examples(), *phases)).impulse == 0.75


@pytest.mark.parametrize("task", [NET, NORMED], ids=lambda task: task.name)
@pytest.mark.parametrize("shape", [(), (1,), (25,), (1, 34)])
def test_a_vector_that_does_not_fit_is_refused(task: Task, shape: tuple[int, ...]) -> None:
    learner = Learner(task, seed=0)
    with pytest.raises(ParameterError, match=r"does not fit this model, whose vector"):
        learner.evaluate(torch.zeros(shape), learner.initial_integers, some_examples())


def test_a_float64_model_learns_in_float64() -> None:
    learner = Learner(Task(name="wide", model=lambda: Net().double()), seed=0)
    narrow = some_examples()
    examples = Examples(narrow.inputs.double(), narrow.targets)
    trained = learner.train(make_job(learner, examples, Phase()))
    assert trained.vector.dtype == torch.float64
    assert not torch.equal(trained.vector, trained.vector.float().double())


def test_a_bfloat16_model_learns_in_float32() -> None:
    learner = Learner(Task(name="half", model=lambda: Net().to(torch.bfloat16)), seed=0)
    trained = learner.train(make_job(learner, some_examples(), Phase()))
    assert trained.vector.dtype == torch.float32


class Partial(Net):
    """Has a parameter that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))


def test_a_parameter_that_the_loss_does_not_depend_on_stays() -> None:
    learner = Learner(Task(name="partial", model=Partial), seed=0)
    trained = learner.train(make_job(learner, some_examples(), Phase()))
    assert trained.vector[learner.spec.slice_of("unused")].tolist() == [1.0, 1.0]


# ---- measuring and representing


def test_measuring_is_the_loss_and_gradient_of_all_examples_in_evaluation_mode() -> None:
    task = Task(name="dropping", model=lambda: Net(norm=True, dropout=0.5))
    learner, examples = Learner(task, seed=0), some_examples(7)
    loss, gradient = learner.measure(make_job(learner, examples, Phase()), gradient=True)
    model = task.new_model(0).eval()
    expected = functional.cross_entropy(model(examples.inputs), examples.targets)
    by_name = dict(model.named_parameters())
    ordered = [by_name[e.name] for e in learner.spec.entries if e.trainable]
    slopes = [slope.reshape(-1) for slope in torch.autograd.grad(expected, ordered)]
    assert gradient is not None
    assert loss.item() == expected.item()
    assert torch.allclose(gradient, torch.cat(slopes), atol=1e-7)


def test_measuring_goes_through_examples_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, examples = Learner(NET, seed=0), some_examples(10)
    job = make_job(learner, examples, Phase())
    whole, slope = learner.measure(job, gradient=True)
    monkeypatch.setattr(learning, "EVALUATION_BATCH", 3)
    pieced, pieces = learner.measure(job, gradient=True)
    assert slope is not None
    assert pieces is not None
    assert pieced.item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(slope, pieces, atol=1e-7)


def test_measuring_the_loss_alone_leaves_the_gradient_out() -> None:
    learner = Learner(NET, seed=0)
    assert learner.measure(make_job(learner, some_examples(), Phase()), gradient=False)[1] is None


def test_measuring_nothing_is_an_error_of_the_data() -> None:
    learner = Learner(NET, seed=0)
    with pytest.raises(DataError, match="there are no training examples"):
        learner.measure(make_job(learner, some_examples(0), Phase()), gradient=False)


def test_a_batch_is_represented_by_what_the_last_linear_layer_is_given() -> None:
    learner, seen = Learner(NET, seed=0), []

    def look(batch: Batch) -> Tensor:
        current = batch.representation()
        head = dict(batch.params)
        again = current @ head["head.weight"].T + head["head.bias"]
        seen.append((current, torch.equal(again, batch.outputs), batch.represent(batch.params)))
        return current.sum()

    job = make_job(learner, some_examples(), Phase(batch_size=None), loss_terms=[look])
    learner.train(job)
    current, continues, other = seen[0]
    assert current.shape == (10, 4)
    assert continues
    assert current.requires_grad
    assert not other.requires_grad
    assert torch.allclose(current, other)


def test_other_models_are_represented_in_evaluation_mode_and_training_goes_on() -> None:
    learner = Learner(Task(name="dropping", model=lambda: Net(dropout=0.9)), seed=0)
    seen = []

    def look(batch: Batch) -> Tensor:
        seen.append(batch.represent(batch.params))
        seen.append(batch.represent(batch.params))
        assert learner.model.training
        return batch.outputs.sum() * 0

    learner.train(make_job(learner, some_examples(), Phase(batch_size=None), loss_terms=[look]))
    assert torch.equal(seen[0], seen[1])
    assert (seen[0] != 0).all()


def test_the_last_linear_layer_is_that_which_is_called_last() -> None:
    class OutputFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(4, 3)
            self.hidden = nn.Linear(2, 4)
            self.unused = nn.Linear(1, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            result: Tensor = self.output(torch.relu(self.hidden(inputs)))
            return result

    learner, seen = Learner(Task(name="backwards", model=OutputFirst), seed=0), []

    def look(batch: Batch) -> Tensor:
        seen.append((batch.representation(), batch.represent(batch.params)))
        return batch.outputs.sum() * 0

    examples = Examples(torch.ones(5, 2), torch.zeros(5, dtype=torch.int64))
    learner.train(make_job(learner, examples, Phase(), loss_terms=[look]))
    (current, other), *_ = seen
    assert current.shape == other.shape == (5, 4)
    assert torch.equal(current, other)


def test_a_model_without_a_linear_layer_has_no_representation() -> None:
    learner = Learner(BY_HAND, seed=0)
    examples = Examples(torch.ones(2), torch.ones(2))

    def look(batch: Batch) -> Tensor:
        return batch.representation().sum()

    with pytest.raises(ParameterError, match="OneWeight calls no linear layer"):
        learner.train(make_job(learner, examples, Phase(), loss_terms=[look]))


# ---- devices


def test_a_model_is_drawn_on_the_cpu_and_computes_where_it_is_told_to() -> None:
    elsewhere = torch.device("meta")
    there, here = Learner(NORMED, 3, elsewhere), Learner(NORMED, 3)
    assert torch.equal(there.initial, here.initial)
    assert there.initial.device == there.initial_integers.device == torch.device("cpu")
    assert there.vector.device == there.device == elsewhere
    assert {tensor.device for tensor in there.model.state_dict().values()} == {elsewhere}
    assert here.device == torch.device("cpu")


def test_moving_to_where_it_is_changes_nothing_and_keeps_the_model_in_the_vector() -> None:
    learner = Learner(NORMED, 3)
    learner.move(torch.device("cpu"))
    learner.load(torch.arange(float(len(learner.vector))), learner.initial_integers, training=True)
    parameter = next(iter(learner.model.parameters()))
    assert parameter.flatten()[0] == learner.vector[learner.spec.trainable][0]


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_the_gradients_of_a_step_are_let_go_of_before_the_next_ones_are_made(
    monkeypatch: pytest.MonkeyPatch, clip_norm: float | None
):
    moved: list[nn.Parameter] = []
    seen: list[bool] = []
    build = OptimizerSpec.build

    def watched(spec: OptimizerSpec, pieces: list[nn.Parameter]) -> Any:
        moved.extend(pieces)
        return build(spec, pieces)

    class Watching(OneWeight):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.extend(piece.grad is None for piece in moved)
            return super().forward(inputs)

    task = replace(BY_HAND, model=Watching)
    learner = Learner(task, 0)
    monkeypatch.setattr(OptimizerSpec, "build", watched)
    examples = Examples(torch.ones(6), torch.ones(6))
    phase = Phase(optimizer=PLAIN, batch_size=2, clip_norm=clip_norm)
    learner.train(make_job(learner, examples, phase))
    assert seen == [True] * 3


# ---- without a working vector


@pytest.mark.parametrize("norm", [False, True])
def test_a_learner_that_rests_has_its_initial_vector_alone(norm: bool) -> None:
    learner = Learner(Task(name="net", model=lambda: Net(norm=norm)), seed=1)
    initial = learner.initial.clone()
    learner.load(initial + 1, learner.initial_integers, training=True)
    learner.rest()
    assert learner.vector.data_ptr() == learner.initial.data_ptr()
    assert torch.equal(learner.spec.read(learner.model)[0], initial)


@pytest.mark.parametrize("norm", [False, True])
def test_after_a_rest_it_learns_as_before_and_its_start_stays_as_it_was(norm: bool) -> None:
    task = Task(name="net", model=lambda: Net(norm=norm))
    expected = Learner(task, seed=1)
    rested = Learner(task, seed=1)
    initial = rested.initial.clone()
    for _ in range(2):
        rested.rest()
        job = make_job(rested, some_examples(), Phase(optimizer=OptimizerSpec(lr=0.1), epochs=2))
        assert identical(rested.train(job), expected.train(job))
        assert torch.equal(rested.initial, initial)
        found = rested.evaluate(initial, rested.initial_integers, some_examples())
        assert found == expected.evaluate(initial, expected.initial_integers, some_examples())
