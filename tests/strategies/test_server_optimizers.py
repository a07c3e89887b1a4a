"""Each link that shapes the server's step, by hand.

The two updates are (3, -4) and then (1, 2); with ``v_init = 0`` and the decays below every second
moment is a perfect square.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.server_optimizers import (
    adaptive,
    at_least_one,
    heavy_ball,
    not_negative,
    one_of,
    positive,
    server_lr,
    unit_interval,
)
from roundel.strategies.sites import ServerTransform, State
from tests.strategies.updates import CONTEXT, vec

FIRST, SECOND = vec(3, -4), vec(1, 2)


def steps(link: ServerTransform, *deltas: Tensor) -> tuple[list[list[float]], State]:
    """Return the step made of each delta, and the last state."""
    state, made = link.init(vec(0, 0)), []
    for delta in deltas:
        aggregate, state = link.update({PARAMS: delta}, state, vec(0, 0), CONTEXT)
        made.append(aggregate[PARAMS].tolist())
    return made, state


def adam(v: Tensor, squared: Tensor) -> Tensor:
    return 0.75 * v + 0.25 * squared


def test_the_server_learning_rate_multiplies_the_step():
    (link,) = server_lr(0.5, "x")
    assert steps(link, FIRST)[0] == [[1.5, -2]]


def test_a_server_learning_rate_of_1_needs_no_link():
    assert server_lr(1.0, "x") == ()


def test_a_link_leaves_other_channels_alone():
    for link in (*server_lr(0.5, "x"), heavy_ball(0.5)):
        aggregate, _ = link.update(
            {PARAMS: FIRST, "other": SECOND}, link.init(FIRST), FIRST, CONTEXT
        )
        assert aggregate["other"] is SECOND


def test_heavy_ball_adds_up_steps():
    made, state = steps(heavy_ball(0.5), FIRST, SECOND)
    assert made == [[3, -4], [2.5, 0]]
    assert state["velocity"].tolist() == [2.5, 0]


def test_nesterov_looks_ahead():
    made, state = steps(heavy_ball(0.5, nesterov=True), FIRST, SECOND)
    assert made == [[4.5, -6], [2.25, 2]]
    assert state["velocity"].tolist() == [2.5, 0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_heavy_ball_is_torchs_sgd_with_the_sign_turned(nesterov):
    point = torch.nn.Parameter(vec(0, 0))
    sgd = torch.optim.SGD([point], lr=1.0, momentum=0.9, nesterov=nesterov)
    made, _ = steps(heavy_ball(0.9, nesterov=nesterov), FIRST, SECOND, FIRST)
    for step, delta in zip(made, (FIRST, SECOND, FIRST), strict=True):
        before = point.detach().clone()
        point.grad = -delta
        sgd.step()
        assert (point.detach() - before).tolist() == pytest.approx(step, rel=1e-14)


# m = (1.5, -2) after (3, -4), and v = (9, 16) / 4: m / (sqrt(v) + 0.5) = (1.5 / 2, -2 / 2.5).
# The factors for t = 1, beta_1 = 0.5, beta_2 = 0.75: kingma sqrt(1/4) / (1/2) = 1; flower, with
# t + 1, sqrt(7/16) / (3/4). Textbook: m = (3, -4), v = (9, 16), hence (3 / 3.5, -4 / 4.5).
@pytest.mark.parametrize(
    ("bias_correction", "step"),
    [
        ("none", [0.75, -0.8]),
        ("kingma", [0.75, -0.8]),
        ("flower", [7**0.5 / 3 * 0.75, -(7**0.5) / 3 * 0.8]),
        ("textbook", [3 / 3.5, -4 / 4.5]),
    ],
)
def test_the_first_adaptive_step_under_each_correction(bias_correction, step):
    link = adaptive(
        "adam",
        adam,
        beta_1=0.5,
        beta_2=0.75,
        tau=0.5,
        v_init=0.0,
        bias_correction=bias_correction,
    )
    made, state = steps(link, FIRST)
    assert made[0] == pytest.approx(step, rel=1e-15)
    assert {name: value.tolist() for name, value in state.items()} == {
        "m": [1.5, -2],
        "v": [2.25, 4],
        "t": 1,
    }


# m = (0.75 + 0.5, -1 + 1) = (1.25, 0) and v = (1.6875 + 0.25, 3 + 1) = (1.9375, 4). For t = 2,
# 1 - beta_1**2 = 3/4 and 1 - beta_2**2 = 7/16; for t = 3 they are 7/8 and 37/64.
@pytest.mark.parametrize(
    ("bias_correction", "first"),
    [
        ("none", 1.25 / (1.9375**0.5 + 0.5)),
        ("kingma", 1.25 / (1.9375**0.5 + 0.5) * (7 / 16) ** 0.5 / 0.75),
        ("flower", 1.25 / (1.9375**0.5 + 0.5) * (37 / 64) ** 0.5 / 0.875),
        ("textbook", 1.25 / 0.75 / ((1.9375 * 16 / 7) ** 0.5 + 0.5)),
    ],
)
def test_the_second_adaptive_step_under_each_correction(bias_correction, first):
    link = adaptive(
        "adam",
        adam,
        beta_1=0.5,
        beta_2=0.75,
        tau=0.5,
        v_init=0.0,
        bias_correction=bias_correction,
    )
    made, state = steps(link, FIRST, SECOND)
    assert made[1] == pytest.approx([first, 0], rel=1e-14)
    assert (state["m"].tolist(), state["v"].tolist()) == ([1.25, 0], [1.9375, 4])
    assert state["t"].item() == 2


def test_the_second_moment_starts_at_tau_squared_unless_told_otherwise():
    def start(v_init: float | None) -> Sequence[float]:
        link = adaptive("adam", adam, beta_1=0.0, beta_2=0.0, tau=0.5, v_init=v_init)
        return link.init(vec(1, 1))["v"].tolist()

    assert start(None) == [0.25, 0.25]
    assert start(0.0) == [0, 0]
    assert start(3.0) == [3, 3]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"beta_1": 1.0}, "beta_1 = 1.0 must be at least 0 and below 1"),
        ({"beta_2": -0.1}, "beta_2 = -0.1 must be at least 0 and below 1"),
        ({"tau": 0.0}, "tau = 0.0 must be a finite number above 0"),
        ({"v_init": -1.0}, "v_init = -1.0 must be a finite number of at least 0"),
        (
            {"bias_correction": "amsgrad"},
            "bias_correction = 'amsgrad' must be one of 'none', 'kingma', 'textbook', 'flower'",
        ),
    ],
    ids=str,
)
def test_an_adaptive_knob_out_of_range_is_named_with_its_value(knobs, message):
    usual = {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3, "v_init": None}
    with pytest.raises(CompositionError) as raised:
        adaptive("adam", adam, **{**usual, **knobs})
    assert str(raised.value) == message


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_must_be_finite_and_above_0(value):
    with pytest.raises(CompositionError, match=f"^server_lr = {value} must be a finite number abo"):
        server_lr(value, "x")


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), float("inf")])
def test_momentum_must_be_at_least_0_and_below_1(value):
    with pytest.raises(CompositionError, match=f"^momentum = {value} must be at least 0 and below"):
        heavy_ball(value)


def test_bounds_include_what_they_say():
    positive("x", 1e-300)
    at_least_one("x", 1)
    not_negative("x", 0.0)
    unit_interval("x", 0.0)
    one_of("x", "a", ["a", "b"])
    for check, value in ((not_negative, -1e-300), (unit_interval, 1.0)):
        with pytest.raises(CompositionError):
            check("x", value)
    with pytest.raises(CompositionError):
        at_least_one("x", 0)
