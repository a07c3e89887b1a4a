"""What cannot be stacked, and what the sentence says."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.job import Batch, Correction, LocalContext, Trained
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.simulations.tasks import characters, digits
from roundel.simulations.vectorized import layers_of, why_not
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.plan import Plan
from roundel.strategies.sites import Finished
from tests.simulations.vectorized.jobs import classified

EXAMPLES = classified(64, classes=10, dtype=torch.float32)(0, 20)


CORRECTED = "the correction of mine"
FAILS = f"{CORRECTED} fails on a stack of clients"


def plan_with(part: Part) -> Plan:
    experiment = Experiment.model_validate({"name": "x"})
    return Plan.of(experiment, net(Plain), compose(fedavg(), part, name="mine"))


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


class Flips(Plain):
    """Leaves its layer out by Python's own draw, as stochastic depth does."""

    def forward(self, inputs: Tensor) -> Tensor:
        factor = random.choice([1, 2]) if self.training else 1
        return super().forward(inputs) * factor


class Shakes(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * float(np.random.normal())  # noqa: NPY002


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
_DRAWS = "draws from Python's or numpy's generator, once for all clients of a stack"
_NO_DATA = "RuntimeError: Cannot access data pointer of Tensor that doesn't have storage"


@pytest.mark.parametrize("model", [Plain, Drops])
def test_models_that_a_stack_suits(model: Callable[[], nn.Module]):
    assert why_not(plan_of(net(model)), EXAMPLES) is None


@pytest.mark.parametrize("name", ["mlp", "mlp-norm", "cnn"])
def test_models_of_digits_suit(name: str):
    assert why_not(plan_of(digits.digits(model=name)), EXAMPLES) is None
    assert (layers_of(digits.digits(model=name).model()) is not None) == (name == "mlp")


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
        (Flips, f"Flips {_DRAWS}"),
        (Shakes, f"Shakes {_DRAWS}"),
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


@pytest.mark.parametrize("name", ["rprop", "Rprop"])
def test_an_optimizer_that_makes_much_of_rounding(name: str):
    sentence = f"client.optimizer = {name!r} goes by signs alone, which rounding can turn"
    assert why_not(plan_of(digits.digits(), optimizer=name), EXAMPLES) == sentence


def by_row(g: Tensor, _x: Tensor, _c: LocalContext) -> Tensor:
    return g / g.norm(dim=-1, keepdim=True)


def normalised(g: Tensor, _x: Tensor, _c: LocalContext) -> Tensor:
    return g / g.norm()


def limited(g: Tensor, _x: Tensor, _c: LocalContext) -> Tensor:
    return g * min(1.0, 100 / float(g.norm()))


def pulled(g: Tensor, x: Tensor, c: LocalContext) -> Tensor:
    return g + (x - c.sent_trainable).mean(dim=0)


def first_only(g: Tensor, _x: Tensor, c: LocalContext) -> Tensor:
    return g[0] if g.dim() > 1 else g + 0 * c.lr


def shaken(g: Tensor, _x: Tensor, _c: LocalContext) -> Tensor:
    return g + torch.randn_like(g)


def narrow(g: Tensor, _x: Tensor, _c: LocalContext) -> Tensor:
    (size,) = g.shape
    return g / size


@pytest.mark.parametrize(
    ("corrections", "sentence"),
    [
        ((by_row,), None),
        ((by_row, normalised), f"{CORRECTED} mixes clients of a stack"),
        ((limited,), f"{CORRECTED} mixes clients of a stack"),  # which only long gradients show
        ((pulled,), f"{CORRECTED} mixes clients of a stack"),
        ((first_only,), f"{CORRECTED} mixes clients of a stack"),
        ((shaken,), f"{CORRECTED} gives other results each time"),
        (
            (narrow,),
            f"{FAILS} (ValueError: too many values to unpack (expected 1))",
        ),
    ],
)
def test_corrections_work_row_by_row(corrections: Sequence[Correction], sentence: str | None):
    part = Part(name="mine", corrections=tuple(corrections))
    assert why_not(plan_with(part), EXAMPLES) == sentence


def keep(trained: Trained, _context: LocalContext) -> Finished:
    return Finished(state={"mine last": trained.vector.clone(), "mine count": torch.tensor(1.0)})


def branching(batch: Batch) -> Tensor:
    last = batch.context.state.get("mine last")
    weight = 1.0 if last is None or last.sum() > 0 else 2.0
    return weight * 0.01 * batch.outputs.sum()


def counting(batch: Batch) -> Tensor:
    return batch.outputs.sum() * batch.context.state.get("mine count", 0.0)


def counted(g: Tensor, _x: Tensor, c: LocalContext) -> Tensor:
    return g * c.state["mine count"].sum() if c.state else g


def drifted(g: Tensor, _x: Tensor, c: LocalContext) -> Tensor:
    return g + (c.state["mine last"].norm() if c.state else 0.0)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (Part(name="mine", loss_terms=(counting,), finishers=(keep,)), None),
        (Part(name="mine", loss_terms=(branching,), finishers=(keep,)), f"Plain {_READS}"),
        (
            Part(name="mine", corrections=(counted,), finishers=(keep,)),
            f"{CORRECTED} mixes clients of a stack",
        ),
        (
            Part(name="mine", corrections=(drifted,), finishers=(keep,)),
            f"{CORRECTED} mixes clients of a stack",
        ),
    ],
    ids=["counts", "branches", "one number", "norm"],
)
def test_what_looks_at_state_is_tried_with_some(part: Part, sentence: str | None):
    assert why_not(plan_with(part), EXAMPLES) == sentence


def test_clients_that_keep_different_things_are_tried_without():
    def own(trained: Trained, _context: LocalContext) -> Finished:
        return Finished(state={f"mine {float(trained.vector.sum())}": trained.vector.clone()})

    part = Part(name="mine", loss_terms=(counting,), finishers=(own,))
    assert why_not(plan_with(part), EXAMPLES) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_any_precision_can_be_tried(dtype: torch.dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32  # what they are trained in
    examples = Examples(EXAMPLES.inputs.to(wide), EXAMPLES.targets)
    assert why_not(plan_of(net(lambda: Plain().to(dtype))), examples) is None


def test_without_examples_nothing_is_stacked():
    nothing = EXAMPLES.take(torch.arange(0))
    assert why_not(plan_of(net(Plain)), nothing) == "there are no examples to try it with"


def test_one_example_is_enough():
    assert why_not(plan_of(net(Plain)), EXAMPLES.take(torch.arange(1))) is None


def test_asking_moves_no_generator():
    before = torch.get_rng_state()
    why_not(plan_of(net(Drops)), EXAMPLES)
    assert torch.equal(torch.get_rng_state(), before)
