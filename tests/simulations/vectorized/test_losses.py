"""Losses of stacks, against torch's of each client."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.seeds import torch_generator
from roundel.core.task import Loss
from roundel.simulations.vectorized.losses import (
    AnyLoss,
    CrossEntropy,
    SquaredError,
    StackedLoss,
    mapped_loss,
    stacked_loss,
)
from roundel.simulations.vectorized.slope import StackedBatch
from tests.simulations.vectorized.jobs import classified

CLASSES = classified(4, classes=3)(0, 6)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(5), dtype=torch.float64)


def check(stacked: StackedLoss, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Hold losses and gradients of whole batches, and of ones filled up, against torch's."""
    kinds: list[list[int]] = [[outputs.shape[1]] * len(outputs)]
    if stacked.pads:
        kinds.append([1, outputs.shape[1]])
    for sizes in kinds:
        weights = torch.zeros(outputs.shape[:2], dtype=torch.float64)
        for k, size in enumerate(sizes):
            weights[k, :size] = 1 / size
        whole = len(set(sizes)) == 1
        inputs = outputs.new_zeros(())
        batch = StackedBatch(inputs=inputs, targets=targets, weights=None if whole else weights)
        losses, gradient = stacked.slope(outputs, batch)
        assert gradient.shape == outputs.shape
        for k, size in enumerate(sizes):
            own = outputs[k, :size].clone().requires_grad_()
            expected = loss(own, targets[k, :size])
            (slope,) = torch.autograd.grad(expected, [own])
            assert losses[k].item() == pytest.approx(expected.item(), rel=1e-12)
            torch.testing.assert_close(gradient[k, :size], slope, rtol=1e-12, atol=1e-15)
            assert not gradient[k, size:].any()


@pytest.mark.parametrize("classes", [2, 15, 16, 40])
def test_cross_entropy_of_few_and_of_many_classes(classes: int):
    targets = torch.randint(classes, (2, 5), generator=torch_generator(1))
    check(CrossEntropy(), functional.cross_entropy, drawn(2, 5, classes), targets)


def test_cross_entropy_of_scores_that_are_far_apart():
    outputs = torch.tensor([[[1e4, -1e4, 0.0], [800.0, 801.0, 0.0]]], dtype=torch.float64)
    targets = torch.tensor([[1, 0]])
    check(CrossEntropy(), functional.cross_entropy, outputs.expand(2, 2, 3), targets.expand(2, 2))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 5, 3, 2)])
def test_squared_error(shape: tuple[int, ...]):
    check(SquaredError(), functional.mse_loss, drawn(*shape), drawn(*shape) + 1)


def test_any_loss():
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.logsumexp(1) * targets).sum()

    check(AnyLoss(loss), loss, drawn(2, 5, 3), drawn(2, 5) + 1)


def run(inputs: Tensor) -> Tensor:
    return inputs[:, :3]


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (functional.cross_entropy, CrossEntropy),
        (nn.CrossEntropyLoss(), CrossEntropy),
        (nn.CrossEntropyLoss(reduction="sum"), AnyLoss),
        (nn.CrossEntropyLoss(label_smoothing=0.1), AnyLoss),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), AnyLoss),
        (nn.CrossEntropyLoss(ignore_index=2), AnyLoss),
        (functional.nll_loss, AnyLoss),
        (functional.mse_loss, AnyLoss),  # of classes: shapes differ
    ],
)
def test_losses_are_known_by_what_they_are(loss: Loss, kind: type[StackedLoss]):
    assert isinstance(stacked_loss(loss, [CLASSES], run), kind)


@pytest.mark.parametrize(
    "change",
    [
        lambda targets: targets.double(),
        lambda targets: targets - 100,
        lambda targets: targets[:, None],
    ],
    ids=["probabilities", "ignored", "several"],
)
def test_cross_entropy_by_hand_is_for_class_numbers_alone(change: Callable[[Tensor], Tensor]):
    examples = Examples(CLASSES.inputs, change(CLASSES.targets))
    assert isinstance(stacked_loss(functional.cross_entropy, [examples], run), AnyLoss)
    assert mapped_loss(functional.cross_entropy, [examples]) is functional.cross_entropy


@pytest.mark.parametrize("loss", [functional.mse_loss, nn.MSELoss()])
def test_squared_error_by_hand_wants_one_shape(loss: Loss):
    same, other = CLASSES.inputs[:, :3], CLASSES.inputs[:, :1]
    assert isinstance(stacked_loss(loss, [Examples(CLASSES.inputs, same)], run), SquaredError)
    assert isinstance(stacked_loss(loss, [Examples(CLASSES.inputs, other)], run), AnyLoss)


def test_a_mapped_cross_entropy_is_torchs():
    loss = mapped_loss(functional.cross_entropy, [CLASSES])
    outputs = drawn(6, 3)
    expected = functional.cross_entropy(outputs, CLASSES.targets)
    assert loss(outputs, CLASSES.targets).item() == pytest.approx(expected.item(), rel=1e-14)
