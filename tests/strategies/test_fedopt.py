"""Server optimizers behind the mean, by hand: the mean deltas are (3, -4) and then (1, 2)."""

import pytest

from roundel.core.errors import CompositionError
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from tests.strategies.updates import points, rounds, update, vec

FIRST = [update(0, 4, -4, examples=3), update(1, 0, -4, examples=1)]
SECOND = [update(0, 1, 2), update(1, 1, 2)]
START = vec(10, 10)


def test_fedavgm_steps_along_its_velocity():
    # Velocities (3, -4) and 0.5 (3, -4) + (1, 2) = (2.5, 0).
    assert points(fedavgm(momentum=0.5), START, FIRST, SECOND) == [[13, 6], [15.5, 6]]


def test_fedavgm_scales_the_velocity_and_not_what_goes_into_it():
    strategy = fedavgm(momentum=0.5, server_lr=2.0)
    assert points(strategy, START, FIRST, SECOND) == [[16, 2], [21, 2]]
    assert rounds(strategy, START, FIRST)[-1].transforms["momentum"]["velocity"].tolist() == [3, -4]


def test_fedavgm_with_nesterov_looks_ahead():
    strategy = fedavgm(momentum=0.5, nesterov=True)
    assert points(strategy, START, FIRST, SECOND) == [[14.5, 4], [16.75, 6]]


def test_fedadagrad_adds_up_squares():
    # v = (9, 16), then (10, 20): steps 3 / (3 + 1) and -4 / (4 + 1), then 1 / (sqrt(10) + 1), ...
    strategy = fedadagrad(server_lr=1.0, tau=1.0, v_init=0.0)
    first, second = points(strategy, START, FIRST, SECOND)
    assert first == [10.75, 9.2]
    step = [1 / (10**0.5 + 1), 2 / (20**0.5 + 1)]
    assert second == pytest.approx([10.75 + step[0], 9.2 + step[1]], rel=1e-15)


def test_fedadagrad_starts_at_tau_squared():
    # v = (16 + 9, 9 + 16) = (25, 25) with tau = 4 or 3.
    (point,) = points(fedadagrad(server_lr=1.0, tau=4.0), START, FIRST)
    assert point == pytest.approx([10 + 3 / 9, 10 - 4 / (32**0.5 + 4)], rel=1e-15)


def test_fedadam_decays_squares():
    # m = (1.5, -2) and v = (9, 16) / 4, so steps of 0.1 * 1.5 / (1.5 + 0.5) and -0.1 * 2 / 2.5.
    strategy = fedadam(server_lr=0.1, beta_1=0.5, beta_2=0.75, tau=0.5, v_init=0.0)
    (point,) = points(strategy, START, FIRST)
    assert point == pytest.approx([10.075, 9.92], rel=1e-15)


def test_fedyogi_moves_towards_squares_by_their_sign():
    # v = (9, 16) / 4 = (2.25, 4); then 1 < 2.25 lowers it by 1/4, and 4 = 4 leaves it.
    strategy = fedyogi(server_lr=1.0, beta_1=0.0, beta_2=0.75, tau=0.5, v_init=0.0)
    states = rounds(strategy, START, FIRST, SECOND)
    assert [s.transforms["yogi"]["v"].tolist() for s in states[1:]] == [[2.25, 4], [2.0, 4.0]]
    assert states[1].params.tolist() == [10 + 3 / 2, 10 - 4 / 2.5]
    step = [1 / (2**0.5 + 0.5), 2 / 2.5]
    assert states[2].params.tolist() == pytest.approx([11.5 + step[0], 8.4 + step[1]], rel=1e-15)


def test_fedyogi_differs_from_fedadam_once_squares_shrink():
    adam, yogi = (
        points(make(v_init=0.0), START, FIRST, SECOND, SECOND) for make in (fedadam, fedyogi)
    )
    assert adam[0] == yogi[0]
    assert adam[1] != yogi[1]


@pytest.mark.parametrize("make", [fedavgm, fedadagrad, fedadam, fedyogi])
def test_the_weights_are_those_asked_for(make):
    weigh = make(weights="uniform").weigher.weigh
    assert [weigh(one) for one in FIRST] == [1.0, 1.0]
    weigh = make().weigher.weigh
    assert [weigh(one) for one in FIRST] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("make", "knobs", "message"),
    [
        (fedavgm, {"momentum": 1.0}, "momentum = 1.0 must be at least 0 and below 1"),
        (fedavgm, {"server_lr": 0.0}, "server_lr = 0.0 must be a finite number above 0"),
        (fedadagrad, {"tau": -1.0}, "tau = -1.0 must be a finite number above 0"),
        (fedadagrad, {"v_init": -1.0}, "v_init = -1.0 must be a finite number of at least 0"),
        (fedadam, {"beta_2": 1.5}, "beta_2 = 1.5 must be at least 0 and below 1"),
        (fedyogi, {"beta_1": -1.0}, "beta_1 = -1.0 must be at least 0 and below 1"),
        (fedyogi, {"weights": "rank"}, "weights = 'rank' must be one of 'examples', 'uniform'"),
    ],
)
def test_a_knob_out_of_range_is_named_with_its_value(make, knobs, message):
    with pytest.raises(CompositionError) as raised:
        make(**knobs)
    assert str(raised.value) == message
