"""Local training by the user's own function."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roundel.client.attempt import attempt_training
from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples
from roundel.core.errors import ConfigError, DataError
from roundel.core.learning import Learner
from roundel.core.messages import (
    BUFFERS,
    INTEGERS,
    PARAMS,
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.task import Task
from roundel.core.training import TrainFunction, TrainingContext, TrainingResult
from roundel.strategies.fedavg import fedavg
from roundel.strategies.plan import Plan

TICKET = Ticket(run="run", round=3, client_id=5)
LATER, OTHER = replace(TICKET, round=4), replace(TICKET, client_id=6)
EXPERIMENT = Experiment.model_validate({"seed": 4, "client": {"lr": 0.25}})
EXAMPLES = Examples(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([0, 1, 1]))


class Net(nn.Module):
    """A frozen stem, a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2).requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.norm(self.stem(inputs)))
        return outputs


TASK = Task(name="net", model=Net)


def trainer_of(function: TrainFunction, task: Task = TASK) -> Trainer:
    task = replace(task, train=function)
    return Trainer(Plan.of(EXPERIMENT, task, fedavg()), Learner(task, seed=0))


def request_of(ticket: Ticket = TICKET, task: Task = TASK) -> TrainRequest:
    learner = Learner(task, seed=0)
    return TrainRequest(
        ticket=ticket,
        base_version=2,
        params=learner.initial[learner.spec.shared],
        integers=learner.initial_integers,
    )


def train(
    function: TrainFunction, state: ClientState | None = None, ticket: Ticket = TICKET
) -> tuple[ClientUpdate, ClientState]:
    return trainer_of(function).train(request_of(ticket), EXAMPLES, state or {})


def one_step(model: nn.Module, examples: Examples, context: TrainingContext) -> TrainingResult:
    """Do one plain step of SGD, without clearing gradients first."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.25)
    loss = nn.functional.cross_entropy(model(examples.inputs), examples.targets)
    loss.backward()
    optimizer.step()
    return TrainingResult(steps=1, loss=loss.item())


def nothing(_model: nn.Module, _examples: Examples, _context: TrainingContext) -> TrainingResult:
    return TrainingResult(steps=1)


def same(one: ClientUpdate, other: ClientUpdate) -> bool:
    return one.channels.keys() == other.channels.keys() and all(
        value.equal(other.channels[name]) for name, value in one.channels.items()
    )


# ---- what comes of it


def test_a_plain_step_of_ones_own_is_the_step_of_the_learning_loop():
    client = {"lr": 0.25, "steps": 1, "batch_size": "full"}
    plan = Plan.of(Experiment.model_validate({"seed": 4, "client": client}), TASK, fedavg())
    usual, _ = Trainer(plan, Learner(TASK, seed=0)).train(request_of(), EXAMPLES, {})
    update, _ = train(one_step)
    assert same(update, usual)
    assert update.channels.keys() == {PARAMS, BUFFERS, INTEGERS}
    assert (update.num_examples, update.num_steps) == (3, 1)
    assert update.metrics.sums["loss"] == pytest.approx(usual.metrics.sums["loss"])
    assert update.metrics.count == usual.metrics.count == 3


def test_without_a_loss_there_is_none():
    update, _ = train(nothing)
    assert update.metrics == Metrics()
    assert update.channels[PARAMS].count_nonzero() == 0


def test_a_loss_may_be_a_tensor():
    def train_with_tensor(model, examples, _context):
        loss = nn.functional.cross_entropy(model(examples.inputs), examples.targets)
        return TrainingResult(steps=2, loss=loss)  # pyright: ignore[reportArgumentType]

    update, _ = train(train_with_tensor)
    assert type(update.metrics.sums["loss"]) is float
    assert update.num_steps == 2


def test_the_model_comes_with_the_parameters_of_the_round_in_training_mode():
    seen = []

    def look(model, examples, _context):
        seen.append((model.training, {n: t.clone() for n, t in model.state_dict().items()}))
        return TrainingResult(steps=1)

    trainer, request = trainer_of(look), request_of()
    trainer.evaluate(
        EvaluateRequest(ticket=TICKET, params=request.params, integers=request.integers),
        EXAMPLES,
        {},
    )
    moved = replace(request, params=request.params + 1, integers=request.integers + 7)
    trainer.train(moved, EXAMPLES, {})
    ((training, state),) = seen
    initial = TASK.new_model(0).state_dict()
    assert training
    assert torch.equal(state["head.bias"], initial["head.bias"] + 1)
    assert torch.equal(state["norm.running_mean"], torch.ones(2))
    assert state["norm.num_batches_tracked"].item() == 7
    assert torch.equal(state["stem.weight"], initial["stem.weight"])


def test_without_examples_the_function_is_not_called():
    none = EXAMPLES.take(torch.tensor([], dtype=torch.int64))
    called = []

    def note(*given: object) -> TrainingResult:
        called.append(given)
        return TrainingResult(steps=1)

    with pytest.raises(DataError, match="there are no training examples"):
        trainer_of(note).train(request_of(), none, {})
    assert called == []


# ---- what it is told


def test_the_context_says_round_client_seed_state_device_and_experiment():
    seen: list[TrainingContext] = []

    def look(_model, _examples, context):
        seen.append(context)
        return TrainingResult(steps=1)

    for ticket in (TICKET, LATER, OTHER, replace(TICKET, attempt=1)):
        train(look, ticket=ticket)
    context = seen[0]
    assert (context.round, context.client_id, context.state) == (3, 5, {})
    assert context.device == torch.device("cpu")
    assert (context.config.seed, context.config.client.lr) == (4, 0.25)
    assert len({context.seed for context in seen}) == 3
    assert seen[3].seed == context.seed  # another attempt at the same work is the same work


def noise() -> list[float]:
    return [
        torch.rand(()).item(),
        np.random.rand(),  # noqa: NPY002 - user code draws from it
        random.random(),
    ]


def test_the_global_generators_are_seeded_for_each_client_and_put_back():
    drawn = []

    def draw(_model, _examples, _context):
        drawn.append(noise())
        return TrainingResult(steps=1)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    for ticket in (TICKET, TICKET, LATER, OTHER):
        train(draw, ticket=ticket)
        noise()
    torch.set_rng_state(before)
    first, again, *others = drawn
    assert first == again
    assert all(a != b for other in others for a, b in zip(other, first, strict=True))


# ---- state


def counting(_model: nn.Module, _examples: Examples, context: TrainingContext) -> TrainingResult:
    """Count its own calls, in place, as momentum would be kept."""
    calls = context.state.get("calls", torch.zeros(()))
    calls += 1
    return TrainingResult(steps=1, state={"calls": calls})


def test_what_it_returns_as_state_comes_back_the_next_time():
    _, first = train(counting)
    _, second = train(counting, first)
    assert [value.item() for state in (first, second) for value in state.values()] == [1, 2]


def test_changing_the_state_in_place_changes_nothing_that_was_committed():
    _, committed = train(counting)
    later = [train(counting, committed)[1] for _ in range(3)]
    assert [value.item() for value in committed.values()] == [1]
    assert [value.item() for after in later for value in after.values()] == [2, 2, 2]


def test_state_that_needs_gradients_is_kept_without_them():
    def keep(model, _examples, _context):
        return TrainingResult(steps=1, state={"head": model.head.weight * 2})

    _, state = train(keep)
    assert not any(value.requires_grad for value in state.values())


def test_personal_layers_and_own_state_do_not_get_in_each_others_way():
    seen = []

    def both(model, _examples, context):
        seen.append((dict(context.state), model.head.bias.tolist()))
        with torch.no_grad():
            model.head.bias.add_(1)
        return TrainingResult(steps=1, state={"personal": torch.tensor(9.0)})

    task = replace(TASK, personal=lambda name: name == "head.bias")
    trainer, request = trainer_of(both, task), request_of(task=task)
    _, first = trainer.train(request, EXAMPLES, {})
    trainer.train(request, EXAMPLES, first)
    assert [state for state, _ in seen] == [{}, {"personal": torch.tensor(9.0)}]
    assert [b - a for a, b in zip(seen[0][1], seen[1][1], strict=True)] == pytest.approx([1, 1])


# ---- what it leaves behind


def leave_gradients(model, examples, _context):
    model(examples.inputs).sum().backward()
    return TrainingResult(steps=1)


def leave_evaluation_mode(model, _examples, _context):
    model.norm.eval()
    return TrainingResult(steps=1)


def freeze_and_thaw(model, _examples, _context):
    model.head.requires_grad_(requires_grad=False)
    model.stem.requires_grad_(requires_grad=True)
    return TrainingResult(steps=1)


def spoil_what_is_frozen(model, _examples, _context):
    with torch.no_grad():
        model.stem.weight.fill_(99.0)
    return TrainingResult(steps=1)


def exchange_tensors(model, _examples, _context):
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach() + 1))
    return TrainingResult(steps=1)


def hook(model, _examples, _context):
    model.head.register_forward_hook(lambda _m, _i, outputs: outputs * 100)
    return TrainingResult(steps=1)


def break_halfway(model, _examples, _context):
    for parameter in model.parameters():
        parameter.data = torch.full_like(parameter, 99.0)
    raise RuntimeError("halfway")


def replace_data(model, _examples, _context):
    for parameter in model.parameters():
        parameter.data = parameter.data.double().add(1).float()
    return TrainingResult(steps=1)


@pytest.mark.parametrize(
    "mess",
    [
        leave_gradients,
        leave_evaluation_mode,
        freeze_and_thaw,
        spoil_what_is_frozen,
        exchange_tensors,
        replace_data,
        hook,
        break_halfway,
    ],
    ids=lambda mess: mess.__name__,
)
def test_nothing_that_one_client_does_to_the_model_reaches_the_next(mess):
    def messy(model, examples, context):
        return (mess if context.client_id == 6 else one_step)(model, examples, context)

    expected, _ = train(one_step)
    trainer = trainer_of(messy)
    data = ClientData(train=EXAMPLES, validation=EXAMPLES, test=EXAMPLES)
    attempt_training(trainer, request_of(OTHER), lambda _client_id: data, {})
    update, _ = trainer.train(request_of(), EXAMPLES, {})
    assert same(update, expected)
    request = request_of()
    asked = EvaluateRequest(ticket=TICKET, params=request.params, integers=request.integers)
    fresh = trainer_of(one_step).evaluate(asked, EXAMPLES, {})
    assert trainer.evaluate(asked, EXAMPLES, {}) == fresh


@pytest.mark.parametrize("exchange", [exchange_tensors, replace_data])
def test_tensors_that_were_exchanged_are_what_was_trained(exchange):
    update, _ = train(exchange)
    assert update.channels[PARAMS].tolist() == pytest.approx([1.0] * 10)


def test_a_model_that_the_function_keeps_is_no_part_of_what_was_sent():
    kept = []

    def keep(model, examples, context):
        for other in kept:
            for parameter in other.parameters():
                parameter.data.fill_(99.0)
        kept.append(model)
        return one_step(model, examples, context)

    trainer = trainer_of(keep)
    update, _ = trainer.train(request_of(), EXAMPLES, {})
    before = {name: value.clone() for name, value in update.channels.items()}
    later, _ = trainer.train(request_of(OTHER), EXAMPLES, {})
    assert all(value.equal(before[name]) for name, value in update.channels.items())
    assert later.channels[PARAMS].equal(before[PARAMS])


def test_an_update_is_no_view_of_the_model():
    trainer = trainer_of(one_step)
    update, _ = trainer.train(request_of(), EXAMPLES, {})
    before = {name: value.clone() for name, value in update.channels.items()}
    trainer.train(request_of(OTHER), EXAMPLES, {})
    assert all(value.equal(before[name]) for name, value in update.channels.items())


# ---- what it must return


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (
            None,
            (
                "the training function mine returned NoneType; it must return a "
                "roundel.core.training.TrainingResult"
            ),
        ),
        (
            TrainingResult(steps=0),
            (
                "the training function mine returned steps = 0; it must be how many steps it "
                "took, a whole number of at least 1"
            ),
        ),
        (TrainingResult(steps=2.0), "steps = 2.0; it must be"),  # pyright: ignore[reportArgumentType]
        (
            TrainingResult(steps=1, state={"m": 3.0}),  # pyright: ignore[reportArgumentType]
            "returned state['m'] of type float; what comes back the next time must be tensors",
        ),
    ],
    ids=["nothing", "no steps", "half steps", "a number as state"],
)
def test_what_cannot_be_sent_is_refused_in_one_sentence(returned, sentence):
    def mine(_model, _examples, _context):
        return returned

    with pytest.raises(ConfigError) as caught:
        train(mine)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_without_a_name_is_named_too():
    def mine(_word, _model, _examples, _context):
        return None

    function: Any = partial(mine, "x")
    with pytest.raises(ConfigError, match=r"^the training function functools\.partial.* NoneType"):
        train(function)


def test_its_exception_is_the_clients_failure_at_its_own_line():
    def mine(model, _examples, _context):
        return model.no_such_layer

    data = ClientData(train=EXAMPLES, validation=EXAMPLES, test=EXAMPLES)
    failure, _ = attempt_training(trainer_of(mine), request_of(), lambda _client_id: data, {})
    assert isinstance(failure, ClientFailure)
    assert failure.error == "AttributeError: 'Net' object has no attribute 'no_such_layer'"
    assert failure.location == f"{__file__}:{mine.__code__.co_firstlineno + 1}"
