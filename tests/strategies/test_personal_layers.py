"""Models of two parts: which part is whose, and in which order they are trained."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import CompositionError
from roundel.core.job import Phase
from roundel.core.params import Entry
from roundel.core.task import Task
from roundel.strategies.compose import Part, compose
from roundel.strategies.personal_layers import fedper, fedrep, lg_fedavg
from tests.federations import federate
from tests.nets import labelled


class Net(nn.Module):
    """A body, a norm and a head, whose norm is defined last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.act = nn.Tanh()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.act(self.body(inputs)))
        return outputs


class Product(nn.Module):
    """``F(b, h) = (b h - target)**2 / 2``: two factors, of which the second is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        self.top = nn.ParameterDict({"h": torch.tensor([2.0], dtype=torch.float64)})

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = (self.body * self.top["h"] - inputs).square() / 2
        return outputs


PRODUCT = Task(
    name="product",
    model=Product,
    loss=lambda outputs, _targets: outputs.mean(),
    metrics=lambda _outputs, _targets: {},
)


def target(value: float) -> Examples:
    return Examples(torch.tensor([[value]], dtype=torch.float64), torch.zeros(1))


def personal(part: Part, model: nn.Module | None = None) -> set[str]:
    assert part.personal is not None
    return set(part.personal(model or Net()))


# ---- which tensors


def test_the_head_is_the_last_module_with_parameters_of_its_own():
    assert personal(fedper()) == personal(fedrep()) == {"head.weight", "head.bias"}


def test_a_frozen_last_layer_is_no_head():
    model = Net()
    model.head.requires_grad_(requires_grad=False)
    assert personal(fedper(), model) == {"body.2.weight", "body.2.bias"}


def test_the_head_can_be_named_by_modules_or_single_tensors():
    assert personal(fedper(head="body.2")) == {"body.2.weight", "body.2.bias"}
    both = {"body.0.bias", "head.weight", "head.bias"}
    assert personal(fedrep(head=["body.0.bias", "head"])) == both


def test_a_name_ends_where_a_module_does():
    # "body.2" begins "body.20" as text, and is no part of it.
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    assert personal(fedper(head="a"), model) == {"a.weight", "a.bias"}


def test_lg_fedavg_is_the_mirror_image():
    body = {f"body.{place}.{name}" for place in (0, 2) for name in ("weight", "bias")}
    assert personal(lg_fedavg()) == body
    assert personal(lg_fedavg(shared="body")) == {"head.weight", "head.bias"}


def test_buffers_and_counters_go_with_their_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert personal(fedper(), model) == {f"1.{name}" for name in names}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            fedper(head="top"),
            "head = 'top' begins no name in Net; it has body, head",
        ),
        (
            lg_fedavg(shared=["head", "bod"]),
            "shared = 'bod' begins no name in Net; it has body, head",
        ),
        (
            fedper(head=["body", "head"]),
            (
                "fedper leaves nothing that is trained to share: Net has body.0.bias, "
                "body.0.weight, body.2.bias, body.2.weight, head.bias, head.weight; name other "
                "layers, or use a model of more parts"
            ),
        ),
    ],
)
def test_names_that_fit_nothing_or_everything_are_refused(part, message):
    with pytest.raises(CompositionError) as raised:
        personal(part)
    assert str(raised.value) == message


@pytest.mark.parametrize("make", [fedper, fedrep, lg_fedavg])
def test_a_model_of_one_layer_cannot_be_divided(make):
    with pytest.raises(CompositionError, match="leaves nothing that is trained to "):
        personal(make(), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("make", "knobs", "message"),
    [
        (fedper, {"head": []}, "head = [] names nothing; leave it out for the last layer"),
        (lg_fedavg, {"shared": []}, "shared = [] names nothing; leave it out for the last layer"),
        (fedrep, {"head_epochs": 0}, "head_epochs = 0 must be a whole number of at least 1"),
        (fedrep, {"body_epochs": -1}, "body_epochs = -1 must be a whole number of at least 1"),
    ],
)
def test_knobs_out_of_range_are_refused(make, knobs: dict[str, Any], message):
    with pytest.raises(CompositionError) as raised:
        make(**knobs)
    assert str(raised.value) == message


@pytest.mark.parametrize("other", [fedper(), fedrep()], ids=lambda part: part.name)
def test_a_shared_head_and_one_of_each_clients_own_leave_nothing_to_share(other):
    for parts in ((other, lg_fedavg()), (lg_fedavg(), other)):
        with pytest.raises(CompositionError, match="so that nothing would be shared; use one of"):
            compose(*parts)


# ---- the order of FedRep


def entry(name: str, *, own: bool) -> Entry:
    return Entry(name=name, shape=(1,), dtype=torch.float32, trainable=True, personal=own)


def test_fedrep_trains_the_head_for_its_epochs_and_then_the_body_as_the_experiment_says():
    (head, body) = compose(fedrep(head_epochs=3)).phases([Phase(epochs=None, steps=7)])
    assert (head.epochs, head.steps) == (3, None)
    assert (body.epochs, body.steps) == (None, 7)
    (_, body) = compose(fedrep(body_epochs=2)).phases([Phase(epochs=None, steps=7)])
    assert (body.epochs, body.steps) == (2, None)
    for phase, own in ((head, True), (body, False)):
        assert phase.trains is not None
        assert phase.trains(entry("x", own=own))
        assert not phase.trains(entry("x", own=not own))


def test_fedrep_keeps_what_a_phase_is_restricted_to():
    only_x = Phase(trains=lambda entry: entry.name == "x")
    for phase, own in zip(compose(fedrep()).phases([only_x]), (True, False), strict=True):
        assert phase.trains is not None
        assert phase.trains(entry("x", own=own))
        assert not phase.trains(entry("y", own=own))


def test_fedrep_moves_the_head_first_and_the_body_by_the_new_head(tmp_path):
    # From b = 1, h = 2 with rate 1/4; F = (b h - t)**2 / 2 of targets 6 and 2.
    # Client 0: h' = 2 + 1/4 (6 - 2) 1 = 3; then b' = 1 + 1/4 (6 - 3) 3 = 3.25.
    # Client 1: the product is 2 already: nothing moves. The mean of b is 2.125.
    strategy = compose(fedrep(head="top", head_epochs=1))
    ran = federate(tmp_path, strategy, PRODUCT, [target(6.0), target(2.0)], lr=0.25, epochs=1)
    assert ran.model["body"].tolist() == [2.125]
    assert [ran.clients[k]["personal"].tolist() for k in range(2)] == [[3.0], [2.0]]
    assert [line["num_steps"] for line in ran.history.clients()] == [2, 2]


def test_fedper_moves_both_at_once(tmp_path):
    # Client 0 from b = 1, h = 2: both see the residual 4: b' = 1 + 1/4 * 4 * 2 = 3, h' = 3.
    ran = federate(tmp_path, compose(fedper(head="top")), PRODUCT, [target(6.0)], lr=0.25, epochs=1)
    assert (ran.model["body"].tolist(), ran.clients[0]["personal"].tolist()) == ([3.0], [3.0])


# ---- federations, against clients trained and averaged one by one


def trained_alone(model: nn.Module, examples: Examples, parts: list[list[str]]) -> nn.Module:
    """Take full-batch steps of 0.5, of which each moves the tensors with these beginnings."""
    model = deepcopy(model)
    for beginnings in parts:
        named = dict(model.named_parameters())
        moved = {n: p for n, p in named.items() if n.startswith(tuple(beginnings))}
        loss = functional.cross_entropy(model(examples.inputs), examples.targets)
        gradients = torch.autograd.grad(loss, list(moved.values()))
        with torch.no_grad():
            for parameter, gradient in zip(moved.values(), gradients, strict=True):
                parameter.sub_(0.5 * gradient)
    return model


@pytest.mark.parametrize(
    ("part", "shared", "steps"),
    [
        (fedper(), "body", [["body", "head"]] * 2),
        (lg_fedavg(), "head", [["body", "head"]] * 2),
        (fedrep(head_epochs=3), "body", [["head"]] * 3 + [["body"]] * 2),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else "",
)
def test_a_federation_is_clients_with_parts_of_their_own_around_an_averaged_one(
    part, shared, steps, tmp_path
):
    task = Task(name="net", model=lambda: Net().double())
    clients = [labelled(1), labelled(2, count=12)]
    ran = federate(
        tmp_path, compose(part), task, clients, rounds=3, epochs=2, lr=0.5, batch_size="full"
    )
    models = [task.new_model(0) for _ in clients]
    for _ in range(3):
        models = [trained_alone(m, e, steps) for m, e in zip(models, clients, strict=True)]
        states = [model.state_dict() for model in models]
        for name in states[0]:
            if name.startswith(shared):
                mean = (6 * states[0][name] + 12 * states[1][name]) / 18
                for state in states:
                    state[name].copy_(mean)
    fresh = task.new_model(0).state_dict()
    sizes = {name: value.numel() for name, value in fresh.items()}
    for name, value in models[0].state_dict().items():
        expected = value if name.startswith(shared) else fresh[name]
        torch.testing.assert_close(ran.model[name], expected)
    for client_id, model in enumerate(models):
        own = [v.flatten() for n, v in model.state_dict().items() if not n.startswith(shared)]
        torch.testing.assert_close(ran.clients[client_id]["personal"], torch.cat(own))
    travels = 8 * sum(size for name, size in sizes.items() if name.startswith(shared))
    assert ran.history.series("bytes_up") == [2 * travels] * 3
