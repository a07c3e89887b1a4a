"""pFedMe against closed forms and against a loop of its own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import CompositionError
from roundel.core.task import Task
from roundel.simulations import simulate
from roundel.strategies.compose import compose
from roundel.strategies.personal_layers import fedrep
from roundel.strategies.pfedme import pfedme
from roundel.strategies.scaffold import scaffold
from tests.federations import Quadratic, federate, quadratic_task
from tests.nets import TwoLayers, labelled
from tests.strategies.updates import points, update, vec


def towards(*centre: float) -> Examples:
    return Quadratic.of([1.0] * len(centre), centre).examples()


def test_one_outer_step_by_hand(tmp_path):
    # e = 8, lam = 1, steps of 1/4: theta = 0, 2, 2 - 1/4 (-6 + 2) = 3; w = 0 - 1/2 (0 - 3) = 1.5.
    strategy = compose(pfedme(lam=1.0, inner_steps=2, inner_lr=0.25, lr=0.5))
    ran = federate(tmp_path, strategy, quadratic_task(vec(0)), [towards(8.0)], steps=1)
    assert ran.model["w"].tolist() == [1.5]
    assert ran.clients[0]["pfedme.theta"].tolist() == [3.0]
    (line,) = ran.history.clients()
    assert line["num_steps"] == 2


def test_theta_starts_at_w_or_where_it_was(tmp_path):
    # As above; then from w = 1.5: theta = 1.5 + 1/4 6.5 = 3.125; or from theta = 2 with K = 1:
    # step 1: theta = 2, w = 1; step 2 from 1: 1 + 7/4 = 2.75; from 2: 2 - 1/4 (-6 + 1) = 3.25.
    for warm, theta in [(False, 2.75), (True, 3.25)]:
        part = pfedme(lam=1.0, inner_steps=1, inner_lr=0.25, lr=0.5, warm_start=warm)
        out = tmp_path / str(warm)
        ran = federate(out, compose(part), quadratic_task(vec(0)), [towards(8.0)], steps=2)
        assert ran.clients[0]["pfedme.theta"].tolist() == [theta]
        assert ran.model["w"].tolist() == [1 - 0.5 * (1 - theta)]


def test_the_limit_on_gradients_holds_for_its_own_steps(tmp_path):
    # As above with gradients of norm 2 at most: theta = 0, 0.5, 0.5 - 1/4 (-2 + 0.5) = 0.875.
    strategy = compose(pfedme(lam=1.0, inner_steps=2, inner_lr=0.25, lr=0.5))
    clients = [towards(8.0)]
    ran = federate(tmp_path, strategy, quadratic_task(vec(0)), clients, steps=1, clip_norm=2.0)
    assert ran.clients[0]["pfedme.theta"].tolist() == [0.875]


def test_theta_has_a_rate_of_its_own_and_not_the_clients(tmp_path):
    ends = []
    for lr in (0.25, 4.0):
        part = pfedme(lam=1.0, inner_steps=2, inner_lr=0.25, lr=0.5)
        out = tmp_path / str(lr)
        ran = federate(out, compose(part), quadratic_task(vec(0)), [towards(8.0)], steps=1, lr=lr)
        ends.append(ran.clients[0]["pfedme.theta"].tolist())
    assert ends == [[3.0], [3.0]]


def test_with_its_defaults_it_learns(tmp_path):
    one = ("rounds=1", "partition.clients=1", "cohort.size=1", "client.steps=100")
    run = simulate(settings=[*one, "strategy.name=pfedme"], out=tmp_path / "run")
    assert run.rounds[-1]["accuracy"] > 0.6  # guessing is 0.1


def test_many_inner_steps_reach_the_proximal_point(tmp_path):
    # argmin 1/2 a (theta - e)**2 + lam / 2 (theta - w)**2 = (a e + lam w) / (a + lam).
    client = Quadratic.of([4.0, 0.5], [1.0, -1.0]).examples()
    part = pfedme(lam=15.0, inner_steps=500, inner_lr=0.04, lr=0.005)
    ran = federate(tmp_path, compose(part), quadratic_task(vec(2, 2)), [client], steps=1)
    theta = [(4 * 1 + 15 * 2) / 19, (0.5 * -1 + 15 * 2) / 15.5]
    assert ran.clients[0]["pfedme.theta"].tolist() == pytest.approx(theta, rel=1e-12)
    moved = [2 - 0.005 * 15 * (2 - each) for each in theta]
    assert ran.model["w"].tolist() == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize(("beta", "after"), [(1.0, 3.0), (0.5, 1.5), (2.0, 6.0)])
def test_the_server_goes_beta_of_the_way_to_the_plain_mean(beta, after):
    each = [update(0, 2.0, examples=1), update(1, 4.0, examples=9)]
    assert points(compose(pfedme(beta=beta)), vec(0), each) == [[after]]


TASK = Task(name="net", model=lambda: TwoLayers().double())


def by_hand(w: list[Tensor], examples: Examples, outer: int) -> tuple[list[Tensor], list[Tensor]]:
    """Run both loops of full batches with torch's autograd, tensor by tensor."""
    model = TASK.new_model(0)
    theta: list[Tensor] = []
    for _ in range(outer):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), w, strict=True):
                parameter.copy_(value)
        for _ in range(3):
            loss = functional.cross_entropy(model(examples.inputs), examples.targets)
            pulls = [
                (parameter - value).square().sum()
                for parameter, value in zip(model.parameters(), w, strict=True)
            ]
            total = loss + 15.0 / 2 * torch.stack(pulls).sum()
            gradients = torch.autograd.grad(total, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(0.03 * gradient)
        theta = [parameter.detach().clone() for parameter in model.parameters()]
        w = [v - 0.005 * 15.0 * (v - t) for v, t in zip(w, theta, strict=True)]
    return w, theta


def test_a_federation_is_what_loops_of_our_own_give(tmp_path):
    clients = [labelled(1), labelled(2, count=12)]
    strategy = compose(pfedme(inner_steps=3, inner_lr=0.03, lr=0.005, beta=0.5))
    ran = federate(tmp_path, strategy, TASK, clients, rounds=2, steps=4, batch_size="full")
    w = [parameter.detach().clone() for parameter in TASK.new_model(0).parameters()]
    thetas = []
    for _ in range(2):
        ends, thetas = zip(*(by_hand(w, each, outer=4) for each in clients), strict=True)
        w = [0.5 * v + 0.5 * (a + b) / 2 for v, a, b in zip(w, *ends, strict=True)]
    for value, expected in zip(ran.model.values(), sorted_as(ran.model, w), strict=True):
        torch.testing.assert_close(value, expected)
    for client_id, theta in enumerate(thetas):
        own = torch.cat([tensor.flatten() for tensor in theta])
        torch.testing.assert_close(ran.clients[client_id]["pfedme.theta"], own)


def sorted_as(tensors, values: list[Tensor]) -> list[Tensor]:
    """Return values in the order of a file's names."""
    names = [name for name, _ in TASK.new_model(0).named_parameters()]
    by_name = dict(zip(names, values, strict=True))
    return [by_name[name] for name in tensors]


def test_every_batch_of_an_epoch_is_one_outer_step(tmp_path):
    strategy = compose(pfedme(inner_steps=3))
    ran = federate(tmp_path, strategy, TASK, [labelled(1)], epochs=2, batch_size=2)
    (line,) = ran.history.clients()
    assert line["num_steps"] == 2 * 3 * 3


def test_a_client_is_judged_by_its_theta_once_it_has_one():
    part = pfedme()
    assert part.evaluated is not None
    assert part.evaluated(vec(1), {}).tolist() == [1]
    assert part.evaluated(vec(1), {"pfedme.theta": vec(3)}).tolist() == [3]


def test_it_goes_with_phases_that_move_one_part_each(tmp_path):
    # The head's phase moves the head alone, the body's the body: what is sent is the body's.
    strategy = compose(fedrep(head_epochs=1), pfedme())
    ran = federate(tmp_path, strategy, TASK, [labelled(1)], epochs=1, batch_size="full")
    fresh = TASK.new_model(0).state_dict()
    assert not torch.equal(ran.model["body.weight"], fresh["body.weight"])
    assert torch.equal(ran.model["head.weight"], fresh["head.weight"])
    head = torch.cat([fresh["head.weight"].flatten(), fresh["head.bias"]])
    assert not torch.equal(ran.clients[0]["personal"], head)


@pytest.mark.parametrize(
    "client",
    [
        {"optimizer": "adam"},
        {"momentum": 0.9},
        {"weight_decay": 1e-3},
        {"options": {"dampening": 0.5}, "momentum": 0.9},
    ],
    ids=str,
)
def test_what_it_would_leave_out_is_refused(client, tmp_path):
    with pytest.raises(CompositionError, match="pfedme takes plain gradient steps of its own: set"):
        federate(tmp_path, compose(pfedme()), TASK, [labelled(1)], **client)


def test_control_variates_need_local_work_whose_gradient_comes_back(tmp_path):
    with pytest.raises(CompositionError, match="scaffold needs more than it gets"):
        federate(tmp_path, compose(scaffold(), pfedme()), TASK, [labelled(1)])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lam": 0.0}, "lam = 0.0 must be a finite number above 0"),
        ({"lr": -1.0}, "lr = -1.0 must be a finite number above 0"),
        ({"beta": 0.0}, "beta = 0.0 must be a finite number above 0"),
        ({"inner_lr": 0.0}, "inner_lr = 0.0 must be a finite number above 0"),
        (
            {"inner_lr": 0.2},
            (
                "inner_lr = 0.2 times lam = 15 is 3, and theta would overshoot w in every step: "
                "set inner_lr below 0.0666667, or lower lam"
            ),
        ),
        (
            {"inner_lr": 0.5, "lam": 2.0},
            (
                "inner_lr = 0.5 times lam = 2 is 1, and theta would overshoot w in every step: "
                "set inner_lr below 0.5, or lower lam"
            ),
        ),
        ({"inner_steps": 0}, "inner_steps = 0 must be a whole number of at least 1"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(CompositionError) as raised:
        pfedme(**knobs)
    assert str(raised.value) == message
