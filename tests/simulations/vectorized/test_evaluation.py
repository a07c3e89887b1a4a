"""Clients judged together, against each judged alone."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from roundel.core import learning
from roundel.core.data import Examples
from roundel.core.errors import ParameterError
from roundel.core.learning import Learner
from roundel.core.metrics import Metrics, accuracy, regression
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.simulations.vectorized import evaluate_together
from tests.simulations.vectorized.jobs import classified, mlp

CLASSES = classified(3, dtype=torch.float32)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


class Wrapped(nn.Module):
    """A linear layer, for what does something besides."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def apply_layer(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs


def learner_of(model: Callable[[], nn.Module] = mlp, **rest: Any) -> Learner:
    return Learner(Task(name="net", model=model, **rest), seed=0)


def together(learner: Learner, examples: Sequence[Examples]) -> list[Metrics]:
    return evaluate_together(learner, learner.initial, learner.initial_integers, examples)


def alone(learner: Learner, examples: Sequence[Examples]) -> list[Metrics]:
    own = learner.initial, learner.initial_integers
    return [learner.evaluate(*own, each) for each in examples]


def assert_alike(found: Sequence[Metrics], expected: Sequence[Metrics], rel: float = 1e-6) -> None:
    assert [each.count for each in found] == [each.count for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.sums.keys() == other.sums.keys()
        assert one.sums == pytest.approx(other.sums, rel=rel)


# ---- the figures


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_each_client_has_the_figures_that_it_has_alone(sizes: list[int]):
    learner = learner_of()
    examples = [CLASSES(k, size) for k, size in enumerate(sizes)]
    assert_alike(together(learner, examples), alone(learner, examples))


@pytest.mark.parametrize("model", [mlp, normed])
@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss(), nn.NLLLoss()])
def test_whatever_the_model_and_the_loss(model: Callable[[], nn.Module], loss: Any):
    learner = learner_of(model, loss=loss)
    examples = [CLASSES(k, size) for k, size in enumerate([5, 1, 7])]
    assert_alike(together(learner, examples), alone(learner, examples))


def test_metrics_of_the_users_own_see_one_clients_examples_at_a_time():
    seen: list[list[int]] = []

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen.append([*outputs.shape, len(targets)])
        return {"largest": outputs.max()}

    learner = learner_of(metrics=metrics)
    examples = [CLASSES(k, size) for k, size in enumerate([2, 0, 3])]
    found = together(learner, examples)
    assert seen == [[2, 2, 2], [3, 2, 3]]
    assert_alike(found, alone(learner, examples))


def test_regressions_are_judged_client_by_client():
    def make(seed: int, count: int) -> Examples:
        drawn = torch.randn(count, 4, generator=torch_generator(seed))
        return Examples(drawn[:, :3], drawn[:, 3:])

    learner = learner_of(lambda: nn.Linear(3, 1), loss=functional.mse_loss, metrics=regression)
    examples = [make(k, size) for k, size in enumerate([3, 2])]
    assert_alike(together(learner, examples), alone(learner, examples))


def test_targets_that_torch_leaves_out_count_as_they_do_alone():
    learner = learner_of(metrics=accuracy)
    one, other = CLASSES(0, 4), CLASSES(1, 4)
    masked = Examples(other.inputs, torch.tensor([0, -100, 1, 1]))
    assert_alike(together(learner, [one, masked]), alone(learner, [one, masked]))


def test_the_loss_of_one_client_that_is_not_finite_is_its_own():
    examples = [CLASSES(k, 3) for k in range(3)]
    examples[1].inputs[0] = torch.tensor([1e38, 1e38, -1e38])
    learner = learner_of(lambda: nn.Linear(3, 2))
    expected = alone(learner, examples)
    assert expected[1].sums["loss"] > 1e30
    assert_alike(together(learner, examples), expected)


def test_nobody_has_no_figures():
    assert together(learner_of(), []) == []


def test_many_classes_are_not_told_apart():
    learner = learner_of(lambda: nn.Linear(3, 101))
    examples = [CLASSES(k, 2) for k in range(2)]
    found = together(learner, examples)
    assert [each.sums.keys() for each in found] == [{"loss", "accuracy"}] * 2
    assert_alike(found, alone(learner, examples))


# ---- how much at once


def test_no_batch_is_larger_than_that_of_the_loop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning, "EVALUATION_BATCH", 6)
    rows: list[int] = []

    class Watched(Wrapped):
        def forward(self, inputs: Tensor) -> Tensor:
            rows.append(len(inputs))
            return self.apply_layer(inputs)

    learner = learner_of(Watched)
    examples = [CLASSES(k, size) for k, size in enumerate([4, 2, 0, 1, 9, 5])]
    found = together(learner, examples)
    # Two and the first of them alone; a single client; one in two batches; a single client.
    assert rows == [6, 4, 1, 6, 3, 5]
    assert_alike(found, alone(learner, examples))


def test_a_client_that_fills_a_batch_has_the_same_bits_as_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning, "EVALUATION_BATCH", 4)
    learner = learner_of()
    examples = [CLASSES(k, size) for k, size in enumerate([9, 4, 5])]
    assert together(learner, examples) == alone(learner, examples)


# ---- what cannot be judged together


class Centred(Wrapped):
    """Makes of an example something else beside others."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.apply_layer(inputs - inputs.mean(0))


class Drops(Wrapped):
    """Drops out where it should not."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.dropout(self.apply_layer(inputs), training=True)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Centred, "what Centred makes of an example depends on those beside it"),
        (Drops, "Drops draws while it is evaluated"),
    ],
)
def test_a_model_that_looks_at_other_examples_or_draws_is_refused(
    kind: type[nn.Module], reason: str
):
    with pytest.raises(ParameterError, match=reason):
        together(learner_of(kind), [CLASSES(0, 2), CLASSES(1, 2)])


@pytest.mark.parametrize("first", [0, 1])
def test_a_client_without_examples_hides_nothing(first: int):
    learner = learner_of(Centred)
    examples = [CLASSES(0, 0)] * first + [CLASSES(1, 2), CLASSES(2, 3)]
    with pytest.raises(ParameterError, match="depends on those beside it"):
        together(learner, examples)


def test_examples_that_would_be_converted_are_refused():
    one = CLASSES(0, 2)
    for other in (
        Examples(one.inputs.double(), one.targets),
        Examples(one.inputs, one.targets.int()),
        Examples(one.inputs[:, :2], one.targets),
    ):
        with pytest.raises(ParameterError, match="several shapes or dtypes"):
            together(learner_of(), [one, other])


def test_a_class_that_the_model_does_not_know_is_an_error():
    odd = Examples(CLASSES(0, 2).inputs, torch.tensor([0, 2]))
    with pytest.raises((IndexError, RuntimeError)):
        together(learner_of(), [CLASSES(1, 2), odd])
