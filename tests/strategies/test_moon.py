"""The contrast of representations, by hand and against finite differences."""

from collections.abc import Mapping
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError, RoundAborted
from roundel.core.job import LocalContext, LocalJob, Phase
from roundel.core.learning import Learner
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.moon import contrastive_loss, moon
from tests.federations import Quadratic, federate, quadratic_task
from tests.nets import Net, labelled
from tests.strategies.updates import trained, vec


def net_task() -> Task:
    return Task(name="net", model=lambda: Net().double())


# ---- the loss


def test_the_loss_compares_cosines():
    # Cosines 1 and 0 at temperature 1/2: log(1 + e**-2). The other way round, log(1 + e**2).
    z, same, other = vec(3, 0), vec(7, 0), vec(0, 0.1)
    assert contrastive_loss(z, same, other, 0.5).item() == pytest.approx(
        log(1 + exp(-2)), rel=1e-14
    )
    assert contrastive_loss(z, other, same, 0.5).item() == pytest.approx(log(1 + exp(2)), rel=1e-14)


def test_the_loss_of_a_batch_is_the_mean():
    z = torch.stack([vec(1, 0), vec(0, 1)])
    loss = contrastive_loss(z, vec(1, 0).expand(2, 2), vec(0, 1).expand(2, 2), 1.0)
    assert loss.item() == pytest.approx((log(1 + exp(-1)) + log(1 + exp(1))) / 2, rel=1e-14)


def test_a_small_temperature_does_not_overflow():
    loss = contrastive_loss(vec(1, 0), vec(-1, 0), vec(1, 0), 1e-4)
    assert loss.item() == pytest.approx(2e4, rel=1e-14)


def test_models_that_represent_alike_give_log_2_and_no_gradient():
    z = vec(1, -2, 0.5).requires_grad_()
    loss = contrastive_loss(z, vec(3, 1, 1), vec(3, 1, 1), 0.5)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(log(2), rel=1e-15)
    assert gradient.tolist() == pytest.approx([0, 0, 0], abs=1e-16)


def test_a_representation_of_zeros_has_a_finite_loss_and_gradient():
    z = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(z, torch.ones(2, 3).double(), torch.zeros(2, 3).double(), 0.5)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(log(2), rel=1e-15)
    assert gradient.isfinite().all()


# ---- the part


def learner_and_job(part_mu: float, state: Mapping[str, Tensor]) -> tuple[Learner, LocalJob]:
    learner = Learner(net_task(), seed=3)
    context = LocalContext(spec=learner.spec, sent=learner.initial, state=state, lr=0.1)
    job = LocalJob(
        context=context,
        integers=learner.initial_integers,
        examples=labelled(1, count=12),
        phases=(Phase(batch_size=None),),
        loss_terms=moon(mu=part_mu, temperature=0.3).loss_terms,
    )
    return learner, job


def other_vector(learner: Learner, seed: int) -> Tensor:
    other = learner.initial + torch.randn(
        learner.initial.shape, generator=torch_generator(seed), dtype=torch.float64
    )
    other[learner.spec.shared_buffers] = learner.initial[learner.spec.shared_buffers]
    return other


def gradient_at(learner: Learner, job: LocalJob, vector: Tensor) -> Tensor:
    learner.load(vector, job.integers, training=True)
    return learner.gradient(job.examples, job)[1]


def test_the_gradient_is_that_of_the_loss_with_the_other_two_models_held_fast():
    learner, _ = learner_and_job(1.0, {})
    state = {"moon.previous": other_vector(learner, 7)}
    learner, job = learner_and_job(2.0, state)
    _, plain = learner_and_job(0.0, state)
    at = other_vector(learner, 8)
    contrast = gradient_at(learner, job, at) - gradient_at(learner, plain, at)

    def representation(vector: Tensor, *, training: bool) -> Tensor:
        model = net_task().new_model(0)
        learner.spec.write(model, vector, job.integers)
        model.train(training)
        assert isinstance(model, Net)
        with torch.no_grad():
            found: Tensor = model.norm(model.body(job.examples.inputs)).tanh()
        return found

    def loss(vector: Tensor) -> float:
        z = representation(vector, training=True)
        received = representation(job.context.sent, training=False)
        own = representation(state["moon.previous"], training=False)
        cosines = [torch.cosine_similarity(z, one, dim=1) / 0.3 for one in (received, own)]
        return 2.0 * float((cosines[0].exp() + cosines[1].exp()).log().sub(cosines[0]).mean())

    step = 1e-6
    first = learner.spec.trainable.start
    for place in range(first, learner.spec.trainable.stop):
        shift = torch.zeros_like(at)
        shift[place] = step
        slope = (loss(at + shift) - loss(at - shift)) / (2 * step)
        assert contrast[place - first].item() == pytest.approx(slope, abs=1e-7)
    assert contrast.abs().max() > 1e-2


def test_a_client_that_takes_part_for_the_first_time_is_not_pulled_anywhere():
    learner, job = learner_and_job(5.0, {})
    _, plain = learner_and_job(0.0, {})
    at = other_vector(learner, 8)
    one, other = gradient_at(learner, job, at), gradient_at(learner, plain, at)
    assert torch.equal(one, other)


def test_the_models_statistics_move_once_a_batch_and_the_mode_stays():
    learner, _ = learner_and_job(1.0, {})
    state = {"moon.previous": other_vector(learner, 7)}
    learner, job = learner_and_job(1.0, state)
    _, plain = learner_and_job(0.0, {})
    where = learner.spec.shared_buffers
    moved = []
    for each in (job, plain):
        gradient_at(learner, each, learner.initial)
        assert learner.model.training
        moved.append((learner.vector[where].clone(), learner.integers()))
    assert torch.equal(moved[0][0], moved[1][0])
    assert torch.equal(moved[0][1], moved[1][1])


def test_a_client_keeps_the_whole_of_what_it_ended_with():
    (finish,) = moon().finishers
    end = vec(1, 2, 3)
    spec = Learner(net_task(), seed=0).spec
    finished = finish(trained(end), LocalContext(spec=spec, sent=vec(0, 0, 0)))
    assert finished.state["moon.previous"].tolist() == [1, 2, 3]
    assert finished.state["moon.previous"].data_ptr() != end.data_ptr()
    assert not finished.channels


SETTINGS: dict[str, Any] = {"lr": 0.1, "epochs": 2, "batch_size": 4}


@pytest.mark.parametrize(
    ("mu", "rounds", "same"), [(0.0, 3, True), (5.0, 1, True), (5.0, 2, False)], ids=str
)
def test_it_is_fedavg_without_a_weight_and_in_everybodys_first_round(mu, rounds, same, tmp_path):
    clients = [labelled(seed, count=12) for seed in range(3)]
    one, other = (
        federate(tmp_path / name, strategy, net_task(), clients, rounds=rounds, **SETTINGS)
        for name, strategy in [("moon", compose(moon(mu=mu))), ("avg", fedavg())]
    )
    equal = [torch.equal(one.model[name], tensor) for name, tensor in other.model.items()]
    assert all(equal) is same
    # The reported loss is the task's alone.
    losses = [run.history.series("train_loss") for run in (one, other)]
    assert (losses[0] == losses[1]) is same


def test_a_model_without_a_linear_layer_is_an_error_that_says_so(tmp_path):
    client = Quadratic.of([1.0], [1.0]).examples()
    with pytest.raises(RoundAborted, match="Point calls no linear layer"):
        federate(tmp_path, compose(moon()), quadratic_task(vec(0)), [client])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mu": -1.0}, "mu = -1.0 must be a finite number of at least 0"),
        ({"temperature": 0.0}, "temperature = 0.0 must be a finite number above 0"),
    ],
)
def test_a_knob_out_of_range_is_named_with_its_value(knobs, message):
    with pytest.raises(CompositionError) as raised:
        moon(**knobs)
    assert str(raised.value) == message
