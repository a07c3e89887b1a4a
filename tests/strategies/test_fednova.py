"""Normalised averaging, by hand."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from roundel.core.data import Examples
from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.core.seeds import torch_generator
from roundel.core.task import Task
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fednova import EFFECTIVE, fednova
from roundel.strategies.fedopt import fedadam, fedavgm
from roundel.strategies.fedprox import prox
from roundel.strategies.personal_layers import fedrep
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.toys import nested
from tests.strategies.updates import SPEC, points, trained, update, vec

CONTEXT = LocalContext(spec=SPEC, sent=vec(100, 1, 2, 50), lr=0.5)
FULL = {"batch_size": "full"}


def walked(end: torch.Tensor, impulse: float | None) -> Trained:
    return trained(end, steps=(3, 2), impulse=impulse)


@pytest.mark.parametrize(("tau_eff", "length"), [("norms", 2.0), ("steps", 2.5)])
def test_a_client_sends_its_average_step_and_how_far_it_came(tau_eff, length):
    # delta = (3, -4) over 2; or five steps of 0.5 instead of 2.
    (finish,) = fednova(tau_eff=tau_eff).finishers
    channels = finish(walked(vec(0, 4, -2, 9), 2.0), CONTEXT).channels
    assert {name: value.tolist() for name, value in channels.items()} == {
        PARAMS: [1.5, -2],
        EFFECTIVE: [length],
    }


def test_steps_count_times_the_rates_of_the_phases_that_move_shared_tensors():
    (finish,) = fednova(tau_eff="steps").finishers
    done = replace(walked(vec(0, 4, -2, 9), 2.0), lr_steps=7.0)
    assert finish(done, CONTEXT).channels[EFFECTIVE].tolist() == [7]


def test_with_equal_plain_steps_and_a_personal_head_both_lengths_are_fedreps(tmp_path):
    examples = Examples(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    task = Task(name="two", model=lambda: deepcopy(model))
    settings = {"lr": 0.125, "epochs": 2, "batch_size": "full"}
    ends = []
    for name, more in (("rep", ()), ("n", (fednova(),)), ("s", (fednova(tau_eff="steps"),))):
        strategy = compose(fedrep(head="1", head_epochs=10), *more)
        ends.append(federate(tmp_path / name, strategy, task, [examples] * 2, **settings).model)
    for end in ends[1:]:
        torch.testing.assert_close(end["0.weight"], ends[0]["0.weight"], rtol=1e-5, atol=1e-6)


def test_the_server_goes_as_far_as_clients_do_on_average():
    # Weights 3/4 and 1/4: mean step (2, 1), mean length 0.75 * 2 + 0.25 * 6 = 3.
    each = [
        update(0, 2, 0, examples=3, **{EFFECTIVE: [2]}),
        update(1, 2, 4, examples=1, **{EFFECTIVE: [6]}),
    ]
    assert points(compose(fednova()), vec(1, 1), each) == [[7, 4]]
    # Uniform: (2, 2) times 4.
    assert points(compose(fednova(weights="uniform")), vec(1, 1), each) == [[9, 9]]


def test_without_anybody_nothing_moves():
    assert points(compose(fednova()), vec(1, 2), []) == [[1, 2]]


def test_a_client_with_more_steps_no_longer_pulls_harder(tmp_path):
    # A loss of constant slope: -1 for a client of one example, 1 for one of three. Steps of 1/4
    # move it by 1/4 and -3/4, each a step of 1/4 a unit of length; by example counts the mean step
    # is (1 - 3) / 4, the mean length (0.25 + 3 * 0.75) / 4 = 0.625.
    def slope(g: float, count: int):
        # a (w - b)**2 / 2 with gradient a w - a b = -a b to one part in 2**40.
        return Quadratic.of([2.0**-40], [-g * 2.0**40]).examples(count)

    clients = [slope(-1.0, 1), slope(1.0, 3)]
    settings = {"lr": 0.25, "epochs": 1, "batch_size": 1}
    task = quadratic_task(vec(0))
    ran = federate(tmp_path / "nova", compose(fednova()), task, clients, **settings)
    assert ran.model["w"].tolist() == pytest.approx([-0.5 * 0.625], rel=1e-9)
    plain = federate(tmp_path / "avg", fedavg(), task, clients, **settings)
    assert plain.model["w"].tolist() == pytest.approx([(0.25 - 3 * 0.75) / 4], rel=1e-9)


@pytest.mark.parametrize("tau_eff", ["norms", "steps"])
@pytest.mark.parametrize("part", [fedavg(), prox(mu=0.4)], ids=["plain", "pulled"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_with_equal_steps_it_is_fedavg(momentum, part, tau_eff, tmp_path):
    clients = [Quadratic.of([1.0, 2.0], [b, -b]).examples(n) for b, n in ((2.0, 1), (4.0, 3))]
    task = quadratic_task(vec(1, 1))
    settings = {"lr": 0.1, "steps": 4, "momentum": momentum, **FULL}
    one, other = (
        federate(tmp_path / name, strategy, task, clients, rounds=3, **settings).model["w"]
        for name, strategy in [
            ("nova", compose(fednova(tau_eff=tau_eff), part)),
            ("avg", compose(fedavg(), part)),
        ]
    )
    if tau_eff == "norms" or (momentum == 0 and part.name == "fedavg"):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
    else:
        assert (one - other).abs().max() > 1e-3


def test_momentum_and_a_pull_inside_the_gradient_are_both_accounted_for(tmp_path):
    # tau = 3, rho = 0.9, lr mu = 0.025, in units of lr: velocities and ways
    #   v = 1, way 1; v = 0.9 + 1 - 0.025 = 1.875, way 2.875;
    #   v = 0.9 * 1.875 + 1 - 0.025 * 2.875 = 2.615625, way 5.490625.
    client = Quadratic.of([1.0], [3.0]).examples()
    strategy = compose(fednova(), prox(mu=0.25))
    settings = {"lr": 0.1, "momentum": 0.9, "steps": 3, **FULL}
    seen: list[float] = []
    (finish,) = fednova().finishers

    def spy(done: Trained, context: LocalContext):
        assert done.impulse is not None
        seen.append(done.impulse / context.lr)
        return finish(done, context)

    watched = replace(strategy, finishers=(spy,))
    federate(tmp_path, watched, quadratic_task(vec(0)), [client], **settings)
    assert seen[-1] == pytest.approx(5.490625, rel=1e-14)  # a trial comes first


def test_a_local_optimizer_that_rescales_gradients_is_normalised_by_its_own_way(tmp_path):
    # Adam moves by lr a step whatever a constant gradient is; so here the mean of clients with
    # one and three steps is one step each, times the mean length of (1 + 3 * 3) / 4 steps.
    clients = [Quadratic.of([2.0**-40], [b * 2.0**40]).examples(n) for b, n in ((-1, 1), (1, 3))]
    settings = {"optimizer": "adam", "lr": 0.01, "epochs": 1, "batch_size": 1}
    ran = federate(tmp_path, compose(fednova()), quadratic_task(vec(0)), clients, **settings)
    assert ran.model["w"].tolist() == pytest.approx([0.01 * (-1 + 3) / 4 * 2.5], rel=1e-6)


def test_server_momentum_comes_after_it():
    strategy = compose(fednova(), fedavgm(momentum=0.5))
    each = [update(0, 1, examples=1, **{EFFECTIVE: [2]})]
    # Steps of 2: velocities 2 and 3.
    assert points(strategy, vec(0), each, each) == [[2], [5]]
    with pytest.raises(CompositionError, match="fednova cannot come after fedadam"):
        compose(fedadam(), fednova())


def test_a_stack_of_clients_gives_what_each_alone_gives():
    generator = torch_generator(5)
    sent = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    ends = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    (finish,) = fednova().finishers
    stack = finish(walked(ends, 0.3), LocalContext(spec=SPEC, sent=sent, lr=0.1)).channels
    for k in range(6):
        alone = LocalContext(spec=SPEC, sent=sent[k], lr=0.1)
        for name, value in finish(walked(ends[k], 0.3), alone).channels.items():
            assert torch.equal(stack[name][k], value)


def test_local_work_without_an_impulse_is_an_error_that_says_so():
    (finish,) = fednova().finishers
    with pytest.raises(CompositionError, match="must end with a known impulse"):
        finish(walked(vec(0, 4, -2, 9), None), CONTEXT)


def test_a_solver_that_does_not_know_its_reach_is_refused_before_the_first_round(tmp_path):
    solver = nested(pull=1.0, lr=0.1, inner_lr=0.1, inner_steps=1, outer=1)
    client = Quadratic.of([1.0], [1.0]).examples()
    with pytest.raises(CompositionError, match="fednova needs more than it gets: updates are"):
        federate(tmp_path, compose(fednova(), solver), quadratic_task(vec(0)), [client])
    assert not any(tmp_path.iterdir())


def test_a_knob_out_of_range_is_named_with_its_value():
    with pytest.raises(CompositionError) as raised:
        fednova(tau_eff="mean")  # pyright: ignore[reportArgumentType]
    assert str(raised.value) == "tau_eff = 'mean' must be one of 'norms', 'steps'"
