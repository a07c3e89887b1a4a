"""What cannot be stacked, and what the sentence says."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.simulations.tasks import characters, digits
from roundel.simulations.vectorized import is_chain, why_not
from roundel.strategies.plan import Plan
from tests.simulations.vectorized.jobs import classified

EXAMPLES = classified(64, classes=10, dtype=torch.float32)(0, 20)


def plan_of(task: Task, strategy: str = "fedavg", **client: Any) -> Plan:
    said = {"name": "x", "strategy": {"name": strategy}, "client": client}
    return Plan.of(Experiment.model_validate(said), task)


class Plain(nn.Module):
    """One layer, and a count that models of this file misuse."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.calls = 0
        self.kept: list[int] = []
        self.seen = torch.zeros(())

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs


class Counts(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs)


class Keeps(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        self.kept.append(len(inputs))
        return super().forward(inputs)


class Adds(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += inputs.detach().mean()
        return super().forward(inputs)


class Reads(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * inputs.mean().item()


class Branches(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (2 if inputs.mean() > 0 else 1)


class Converts(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * float(inputs.detach().numpy().mean())


class Draws(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs + torch.randn_like(inputs))


class Drops(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(functional.dropout(inputs, 0.5, self.training))


class Looks(Plain):
    """Does something else with tensors that are not its own, as those of a stack are."""

    def forward(self, inputs: Tensor) -> Tensor:
        own = isinstance(self.layer.weight, nn.Parameter)
        return super().forward(inputs) * (1 if own else 2)


class Fails(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        raise ValueError("no luck\ntoday")


def net(model: Callable[[], nn.Module]) -> Task:
    return Task(name="net", model=model)


_READS = (
    "reads numbers out of tensors while it runs (by .item(), or by a branch on them), which differ "
    "by client"
)
_NO_DATA = "RuntimeError: Cannot access data pointer of Tensor that doesn't have storage"


@pytest.mark.parametrize("model", [Plain, Drops])
def test_models_that_a_stack_suits(model: Callable[[], nn.Module]):
    assert why_not(plan_of(net(model)), EXAMPLES) is None


@pytest.mark.parametrize("name", ["mlp", "mlp-norm", "cnn"])
def test_models_of_digits_suit(name: str):
    assert why_not(plan_of(digits.digits(model=name)), EXAMPLES) is None
    assert is_chain(digits.digits(model=name).model()) == (name == "mlp")


@pytest.mark.parametrize(
    "strategy",
    ["fedprox", "scaffold", "feddyn", "fednova", "moon", "fedrep", "ditto", "qfedavg", "fedbn"],
)
def test_strategies_that_a_stack_suits(strategy: str):
    assert why_not(plan_of(digits.digits(model="mlp-norm"), strategy), EXAMPLES) is None


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Counts, "Counts keeps 'calls' from one batch to the next"),
        (Keeps, "Keeps keeps 'kept' from one batch to the next"),
        (Adds, "Adds keeps 'seen' from one batch to the next"),
        (
            Reads,
            f"Reads {_READS}",
        ),
        (
            Branches,
            f"Branches {_READS}",
        ),
        (
            Converts,
            f"torch cannot map Converts over clients ({_NO_DATA})",
        ),
        (Draws, "Draws gives other results each time, even in evaluation"),
        (Looks, "Looks computes something else on a stack of clients than for each of them"),
    ],
)
def test_models_that_a_stack_does_not_suit(model: Callable[[], nn.Module], sentence: str):
    assert why_not(plan_of(net(model)), EXAMPLES) == sentence
    assert why_not(plan_of(net(model)), EXAMPLES) == sentence  # the same when asked again


def test_a_model_that_fails_by_itself_does_so_in_the_trial():
    with pytest.raises(ValueError, match="no luck"):
        why_not(plan_of(net(Fails)), EXAMPLES)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_layers(name: str):
    task = Task(
        name="text",
        model=lambda: characters.MODELS[name](8, 8, 6),
        loss=characters.mean_cross_entropy,
    )
    both = torch.randint(97, (2, 8, 6), generator=torch_generator(0))
    reason = why_not(plan_of(task), Examples(both[0], both[1]))
    assert reason is not None
    assert reason.startswith("torch cannot map NextCharacter over clients (RuntimeError: ")


def test_an_operation_that_torch_would_map_by_a_loop():
    task = Task(name="net", model=Plain, loss=functional.multi_margin_loss)
    assert why_not(plan_of(task), EXAMPLES) == (
        "torch has no batched form of aten::multi_margin_loss, which Plain uses"
    )


@pytest.mark.parametrize("name", ["muon", "adafactor", "lbfgs"])
def test_optimizers_that_look_at_more_than_one_number(name: str):
    sentence = f"client.optimizer = {name!r} does not move each number by itself"
    assert why_not(plan_of(digits.digits(), optimizer=name), EXAMPLES) == sentence


def test_a_solver():
    assert why_not(plan_of(digits.digits(), "pfedme"), EXAMPLES) == (
        "pfedme(lam=15) trains with a solver of its own"
    )


def test_a_training_function_of_the_users():
    def own(*_: object) -> Mapping[str, Tensor]:
        raise AssertionError

    task = Task(name="mine", model=Plain, train=own)  # type: ignore[arg-type]
    assert why_not(plan_of(task), EXAMPLES) == (
        "the task 'mine' brings a training function of its own"
    )


def test_one_example_is_enough():
    assert why_not(plan_of(net(Plain)), EXAMPLES.take(torch.arange(1))) is None


def test_asking_moves_no_generator():
    before = torch.get_rng_state()
    why_not(plan_of(net(Drops)), EXAMPLES)
    assert torch.equal(torch.get_rng_state(), before)
