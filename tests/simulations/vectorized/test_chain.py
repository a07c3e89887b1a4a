"""Chains of layers: which models are some, and their gradients against torch's."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from roundel.core.job import LocalContext
from roundel.core.learning import Learner
from roundel.simulations.vectorized import chain
from roundel.simulations.vectorized.chain import Chain, convolves, layers_of
from roundel.simulations.vectorized.losses import AnyLoss, CrossEntropy
from roundel.simulations.vectorized.slope import StackedBatch
from tests.simulations.vectorized.jobs import classified, task_of

IN, OUT = 6, 3


def reusing(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(IN, 4), layer, nn.Linear(4, 4), layer, nn.Linear(4, OUT))


CHAINS = {
    "linear": lambda: nn.Linear(IN, OUT),
    "no-bias": lambda: nn.Sequential(nn.Linear(IN, 4, bias=False), nn.Linear(4, OUT)),
    "relu-first": lambda: nn.Sequential(nn.ReLU(), nn.Linear(IN, OUT), nn.ReLU()),
    "tanh-relu": lambda: nn.Sequential(nn.Linear(IN, 4), nn.Tanh(), nn.ReLU(), nn.Linear(4, OUT)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(IN, 4), nn.Sigmoid(), nn.Linear(4, OUT)),
    "gelu": lambda: nn.Sequential(nn.Linear(IN, 4), nn.GELU(), nn.Linear(4, OUT)),
    "gelu-tanh": lambda: nn.Sequential(nn.Linear(IN, 4), nn.GELU("tanh"), nn.Linear(4, OUT)),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(IN, 4)),
        nn.Sequential(),
        nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.0), nn.Linear(4, OUT)),
    ),
    "reused": lambda: reusing(nn.ReLU()),
    "many-classes": lambda: nn.Sequential(nn.Linear(IN, 4), nn.ReLU(), nn.Linear(4, 20)),
}


SIDE = 7
IMAGES = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, OUT)
    ),
    "deep": lambda: nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(0, 1)),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(4, 6, 2, dilation=2, groups=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6, OUT),
    ),
    "one-channel": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(2 * SIDE * SIDE, 16),
        nn.ReLU(),
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.ReLU(),
        nn.MaxPool2d((2, 1), dilation=1),
        nn.Flatten(),
        nn.Linear(6, OUT),
    ),
    "last": lambda: nn.Sequential(
        nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, OUT, 3, bias=False), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("loss", [CrossEntropy(), AnyLoss(functional.cross_entropy)])
def test_gradients_are_those_of_torch(name: str, loss: CrossEntropy | AnyLoss):
    _compare(CHAINS[name], (IN,), loss, clients=3)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("clients", [1, 3])
def test_gradients_of_images_are_those_of_torch(name: str, clients: int, monkeypatch):
    monkeypatch.setattr(chain, "LARGEST_TRANSFORMED", 0)
    _compare(IMAGES[name], (2, SIDE, SIDE), CrossEntropy(), clients=clients)


def _compare(
    model: Callable[[], nn.Module],
    shape: tuple[int, ...],
    loss: CrossEntropy | AnyLoss,
    *,
    clients: int,
) -> None:
    """Compare a chain's gradients, and its steps, with what torch finds for each client."""
    learner = Learner(task_of(model), 0)
    layers = layers_of(learner.model)
    assert layers is not None
    examples = [classified(*shape, classes=OUT)(k, 5) for k in range(clients)]
    points = torch.stack([learner.initial + 0.1 * k for k in range(clients)])
    tensors = {n: view.contiguous() for n, view in learner.spec.views(points).items()}
    before = {n: tensor.clone() for n, tensor in tensors.items()}
    batch = StackedBatch(
        inputs=torch.stack([e.inputs for e in examples]),
        targets=torch.stack([e.targets for e in examples]),
    )
    seen = batch.inputs.clone()
    chain, context = Chain(layers, loss), LocalContext(spec=learner.spec, sent=points)
    slope = chain.slope(tensors, batch, context, list(tensors))
    for k, one in enumerate(examples):
        expected_loss, expected = _alone(learner, points[k], one.inputs, one.targets)
        assert slope.losses[k].item() == pytest.approx(expected_loss, rel=1e-12)
        found = torch.cat([gradient[k].flatten() for gradient in slope.gradients])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert torch.equal(batch.inputs, seen)
    assert all(torch.equal(tensors[n], before[n]) for n in tensors)
    losses = chain.descend(tensors, tensors, batch, 0.5)
    assert torch.equal(losses, slope.losses)
    for (n, tensor), gradient in zip(tensors.items(), slope.gradients, strict=True):
        torch.testing.assert_close(tensor, before[n] - 0.5 * gradient, rtol=1e-10, atol=1e-13)


def _alone(
    learner: Learner, point: Tensor, inputs: Tensor, targets: Tensor
) -> tuple[float, Tensor]:
    learner.load(point, learner.initial_integers, training=True)
    loss = functional.cross_entropy(learner.model(inputs.clone()), targets)
    pieces = torch.autograd.grad(loss, list(learner.model.parameters()))
    return loss.item(), torch.cat([piece.flatten() for piece in pieces])


def test_a_step_moves_only_what_it_is_to_move():
    learner = Learner(task_of(CHAINS["sigmoid"]), 0)
    layers = layers_of(learner.model)
    assert layers is not None
    one = classified(IN, classes=OUT)(0, 5)
    tensors = {n: v[None].clone() for n, v in learner.spec.views(learner.initial).items()}
    before = {n: tensor.clone() for n, tensor in tensors.items()}
    batch = StackedBatch(inputs=one.inputs[None], targets=one.targets[None])
    Chain(layers, CrossEntropy()).descend({"2.bias": tensors["2.bias"]}, tensors, batch, 1.0)
    moved = [n for n in tensors if not torch.equal(tensors[n], before[n])]
    assert moved == ["2.bias"]


def test_layers_see_inputs_of_several_axes():
    learner = Learner(task_of(lambda: nn.Sequential(nn.Linear(IN, 4), nn.Flatten(), nn.ReLU())), 0)
    layers = layers_of(learner.model)
    assert layers is not None
    inputs = torch.randn(2, 3, 5, IN, dtype=torch.float64)  # two clients, three examples of 5 x 6

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    batch = StackedBatch(inputs=inputs, targets=torch.zeros(2, 3, 20, dtype=torch.float64))
    points = torch.stack([learner.initial, learner.initial * 2])
    tensors = {n: view.contiguous() for n, view in learner.spec.views(points).items()}
    context = LocalContext(spec=learner.spec, sent=points)
    slope = Chain(layers, AnyLoss(loss)).slope(tensors, batch, context, list(tensors))
    for k in range(2):
        learner.load(points[k], learner.initial_integers, training=True)
        total = loss(learner.model(inputs[k]), batch.targets[k])
        expected = torch.autograd.grad(total, list(learner.model.parameters()))
        for gradient, wanted in zip(slope.gradients, expected, strict=True):
            torch.testing.assert_close(gradient[k], wanted, rtol=1e-10, atol=1e-13)


class Own(nn.Linear):
    """A layer that may do anything."""


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(IN, OUT))
    cast("nn.Module", model[0]).register_forward_hook(lambda *_: None)
    return model


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(IN, 4), nn.Linear(4, OUT))
    model[0].requires_grad_(False)
    return model


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(IN, IN), nn.Linear(IN, IN))
    cast("nn.Linear", model[1]).weight = cast("nn.Linear", model[0]).weight
    return model


def _twice() -> nn.Module:
    layer = nn.Linear(IN, IN)
    return nn.Sequential(layer, nn.ReLU(), layer)


def _buffered() -> nn.Module:
    model = nn.Sequential(nn.Linear(IN, OUT))
    model.register_buffer("count", torch.zeros(()))
    return model


def _patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(IN, OUT))
    model.forward = lambda inputs: inputs  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(Own(IN, OUT)),
        lambda: nn.Sequential(nn.Linear(IN, 4), nn.BatchNorm1d(4)),
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(IN, OUT)),
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(IN, OUT))),
        nn.Sequential,
        _hooked,
        _frozen,
        _tied,
        _twice,
        _buffered,
        _patched,
    ],
)
def test_models_that_are_no_chain(make: Callable[[], nn.Module]):
    assert layers_of(make()) is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding="same"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2, return_indices=True)),
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Unflatten(2, (5, 1))),
        nn.Conv1d(2, 3, 3),
    ],
)
def test_layers_of_images_that_are_not_known(layer: nn.Module, monkeypatch):
    monkeypatch.setattr(chain, "LARGEST_TRANSFORMED", 0)
    assert layers_of(layer) is None


def test_convolutions_are_differentiated_by_hand_in_large_models_on_a_cpu_alone():
    large = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 500))
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 50))
    layers = layers_of(large)
    assert layers is not None
    assert convolves(layers)
    assert layers_of(large, torch.device("cuda")) is None
    assert layers_of(small) is None
    dense = layers_of(nn.Linear(9, 9), torch.device("cuda"))
    assert dense is not None
    assert not convolves(dense)


def test_a_relu_before_pooling_comes_after_it(monkeypatch):
    monkeypatch.setattr(chain, "LARGEST_TRANSFORMED", 0)
    layers = layers_of(IMAGES["plain"]())
    assert layers is not None
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Convolution", "MaxPool", "Activation", "Flatten", "Linear"]
