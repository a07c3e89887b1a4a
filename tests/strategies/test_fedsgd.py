"""Gradients as updates, by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, Phase, Trained
from roundel.core.messages import PARAMS
from roundel.core.metrics import Metrics
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import Entry, ParamSpec
from roundel.core.task import Task
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedexp import fedexp
from roundel.strategies.fednova import fednova
from roundel.strategies.fedopt import fedavgm
from roundel.strategies.fedprox import prox
from roundel.strategies.fedsgd import fedsgd
from roundel.strategies.personal_layers import fedper
from tests.federations import Point, Quadratic, federate, quadratic_task
from tests.strategies.toys import nested
from tests.strategies.updates import points, update, vec

# F_k = a (w - b)**2 / 2 with gradients 2 (w - 3) and 1 (w + 1); one client has three examples.
CLIENTS = [Quadratic.of([2.0], [3.0]).examples(3), Quadratic.of([1.0], [-1.0]).examples(1)]


def test_each_phase_becomes_one_step_of_plain_sgd_on_everything_at_its_own_rate():
    def of_head(entry: Entry) -> bool:
        return entry.name == "head"

    asked = Phase(
        optimizer=OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.1),
        epochs=5,
        batch_size=10,
        clip_norm=2.0,
    )
    become = Phase(
        optimizer=OptimizerSpec(name="sgd", lr=0.01, weight_decay=0.1),
        epochs=None,
        steps=1,
        batch_size=None,
        clip_norm=2.0,
    )
    strategy = compose(fedsgd())
    assert list(strategy.phases([asked, replace(asked, trains=of_head)])) == [
        become,
        replace(become, trains=of_head),
    ]


@pytest.mark.parametrize("lr", [0.3, 1.0, 7.0])
def test_what_is_sent_is_the_negative_gradient_whatever_the_clients_rate(lr, tmp_path):
    strategy, seen = compose(fedsgd()), []
    (finish,) = strategy.finishers

    def spy(trained, context):
        finished = finish(trained, context)
        seen.append(finished.channels[PARAMS].item())
        return finished

    watched = replace(strategy, finishers=(spy,))
    federate(tmp_path, watched, quadratic_task(vec(0)), CLIENTS, lr=lr, momentum=0.9)
    assert seen == pytest.approx([6, -1], rel=1e-14)


def test_a_personal_layer_moves_at_the_clients_rate(tmp_path):
    class Pair(Point):
        def __init__(self) -> None:
            super().__init__(vec(0))
            self.own = nn.Parameter(vec(0))

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) + (self.own - 1) ** 2 / 2

    task = Task(name="pair", model=Pair, loss=lambda out, _: out.mean(), metrics=lambda *_: {})
    strategy = compose(fedsgd(server_lr=0.5), fedper(head="own"))
    ran = federate(tmp_path, strategy, task, CLIENTS, lr=0.125)
    assert [state["personal"].tolist() for state in ran.clients.values()] == [[0.125], [0.125]]
    assert ran.model["w"].tolist() == [0.5 * 4.25]


def test_training_of_which_no_gradient_can_be_read_is_refused(tmp_path):
    solver = nested(pull=1.0, lr=0.1, inner_lr=0.1, inner_steps=1, outer=1)
    with pytest.raises(CompositionError, match="fedsgd needs more than it gets: clients send"):
        federate(tmp_path, compose(fedsgd(), solver), quadratic_task(vec(0)), CLIENTS)
    (finish,) = compose(fedsgd()).finishers
    none = torch.empty(0, dtype=torch.int64)
    trained = Trained(vector=vec(1), integers=none, metrics=Metrics(), steps=(1,))
    context = LocalContext(spec=ParamSpec.of(Point(vec(0))), sent=vec(0))
    with pytest.raises(CompositionError, match="must move all shared tensors alike"):
        finish(trained, context)


def test_the_server_steps_along_the_mean_gradient_of_all_examples(tmp_path):
    # From 0: gradients -6 and 1, mean (3 * -6 + 1) / 4 = -4.25. Then at 0.425: 2 (0.425 - 3) =
    # -5.15 and 1.425, mean -3.50625.
    ran = federate(tmp_path, compose(fedsgd(server_lr=0.1)), quadratic_task(vec(0)), CLIENTS)
    assert ran.model["w"].tolist() == pytest.approx([0.425], rel=1e-15)
    again = tmp_path / "again"
    ran = federate(again, compose(fedsgd(server_lr=0.1)), quadratic_task(vec(0)), CLIENTS, rounds=2)
    assert ran.model["w"].tolist() == pytest.approx([0.775625], rel=1e-14)


def test_each_client_takes_one_step_over_all_its_examples(tmp_path):
    ran = federate(tmp_path, compose(fedsgd()), quadratic_task(vec(0)), CLIENTS, batch_size=1)
    lines = ran.history.clients()
    assert [(line["num_examples"], line["num_steps"]) for line in lines] == [(3, 1), (1, 1)]


def test_it_is_fedavg_of_one_full_step_at_the_same_learning_rate(tmp_path):
    task = quadratic_task(vec(5))
    settings = {"lr": 0.1, "steps": 1, "batch_size": "full"}
    one, other = (
        federate(tmp_path / name, strategy, task, CLIENTS, rounds=4, **settings).model["w"]
        for name, strategy in [("sgd", compose(fedsgd(server_lr=0.1))), ("avg", fedavg())]
    )
    torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


def test_weights_may_be_uniform(tmp_path):
    strategy = compose(fedsgd(server_lr=0.5, weights="uniform"))
    ran = federate(tmp_path, strategy, quadratic_task(vec(0)), CLIENTS)
    assert ran.model["w"].tolist() == pytest.approx([1.25], rel=1e-14)


def test_momentum_beside_it_sees_gradients():
    # Deltas are minus the gradients 4 and then 2: velocities -4 and -4 - ... = -0.5 * 4 - 2.
    strategy = compose(fedsgd(server_lr=0.25), fedavgm(momentum=0.5))
    assert points(strategy, vec(0), [update(0, -4)], [update(0, -2)]) == [[-1], [-2]]


def test_a_pull_towards_the_start_does_nothing_at_the_start(tmp_path):
    task, plain = quadratic_task(vec(0)), compose(fedsgd())
    one = federate(tmp_path / "1", plain, task, CLIENTS, rounds=2).model["w"]
    pulled = compose(fedsgd(), prox(mu=3.0))
    assert torch.equal(one, federate(tmp_path / "2", pulled, task, CLIENTS, rounds=2).model["w"])


def test_what_needs_updates_and_not_gradients_is_refused():
    for other in (fedexp(), fednova()):
        for parts in ((fedsgd(), other), (other, fedsgd())):
            with pytest.raises(CompositionError, match="fedsgd"):
                compose(*parts)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_the_learning_rate_must_be_finite_and_above_0(lr):
    with pytest.raises(CompositionError, match=f"^server_lr = {lr} must be a finite number above"):
        fedsgd(server_lr=lr)
