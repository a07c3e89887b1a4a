"""Extrapolation, by hand."""

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.core.params import ParamSpec
from roundel.core.seeds import torch_generator
from roundel.server.aggregation import reported
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fedexp import SQUARED, fedexp
from roundel.strategies.fednova import fednova
from roundel.strategies.fedopt import fedavgm
from tests.federations import Point
from tests.strategies.toys import out_of
from tests.strategies.updates import CONTEXT as NOWHERE
from tests.strategies.updates import points, rounds, update, vec

# Mean (1, 0.5), whose square is 1.25; squares 17 and 4, mean 10.5.
APART = [update(0, 4, 1), update(1, -2, 0)]


def lr_after(strategy, *updates) -> float:
    return rounds(compose(strategy), vec(0, 0), list(updates))[-1].transforms["fedexp"]["lr"].item()


def test_the_step_is_half_the_quotient_of_mean_square_and_squared_mean():
    # 10.5 / (2 * 1.25) = 4.2.
    assert lr_after(fedexp(epsilon=0.0), *APART) == pytest.approx(4.2, rel=1e-15)
    (point,) = points(compose(fedexp(epsilon=0.0)), vec(10, 10), APART)
    assert point == pytest.approx([14.2, 12.1], rel=1e-15)


def test_epsilon_is_added_to_the_squared_mean():
    # 10.5 / (2 * (1.25 + 1)) = 7 / 3.
    assert lr_after(fedexp(epsilon=1.0), *APART) == pytest.approx(7 / 3, rel=1e-15)


def test_means_are_weighted_like_the_updates():
    # Weights 3/4 and 1/4: mean (2.5, 0.75), square 6.8125; squares 0.75 * 17 + 0.25 * 4 = 13.75.
    weighted = [update(0, 4, 1, examples=3), update(1, -2, 0, examples=1)]
    assert lr_after(fedexp(epsilon=0.0), *weighted) == pytest.approx(13.75 / 13.625, rel=1e-15)
    uniform = fedexp(epsilon=0.0, weights="uniform")
    assert lr_after(uniform, *weighted) == pytest.approx(4.2, rel=1e-15)


def test_the_step_is_never_shorter_than_that_of_fedavg():
    # Alike, the quotient is 1/2; one client alone is always like itself.
    for alike in ([update(0, 3, 4), update(1, 3, 4)], [update(0, 3, 4)]):
        assert lr_after(fedexp(), *alike) == 1.0
        assert points(compose(fedexp()), vec(0, 0), alike) == [[3, 4]]


def test_a_large_epsilon_is_fedavg():
    assert points(compose(fedexp(epsilon=1e6)), vec(1, 1), APART) == points(
        fedavg(), vec(1, 1), APART
    )


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
@pytest.mark.parametrize(
    "updates",
    [
        [],
        [update(0, 0, 0)],
        [update(0, 0, 0), update(1, 0, 0)],
        [update(0, 1, 2), update(1, -1, -2)],
    ],
    ids=["nobody", "one zero", "two zeros", "opposites"],
)
def test_where_there_is_no_direction_nothing_moves(updates, epsilon):
    after = rounds(compose(fedexp(epsilon=epsilon)), vec(1, 2), updates)[-1]
    assert after.params.tolist() == [1, 2]
    assert after.transforms["fedexp"]["lr"].isfinite()


def test_what_is_reported_is_the_mean_of_the_last_two_iterates():
    # Alone a client steps by its delta: 0, 2, 3.
    strategy = compose(fedexp())
    states = rounds(strategy, vec(0), [update(0, 2)], [update(0, 1)])
    spec = ParamSpec.of(Point(vec(0)))
    assert [s.params.tolist() for s in states] == [[0], [2], [3]]
    assert [reported(strategy, spec, s).tolist() for s in states] == [[0], [1], [2.5]]
    last = compose(fedexp(reports="last"))
    states = rounds(last, vec(0), [update(0, 2)], [update(0, 1)])
    assert [reported(last, spec, s).tolist() for s in states] == [[0], [2], [3]]


def test_a_fixed_denominator_divides_both_means():
    # Sums (2, 1) and 21, both over 4: mean (0.5, 0.25), square 0.3125; 5.25 / 0.625 = 8.4.
    strategy = compose(fedexp(epsilon=0.0), out_of(4.0))
    assert lr_after(strategy, *APART) == pytest.approx(8.4, rel=1e-15)


def test_squares_that_are_too_large_for_a_sum_of_vectors_break_nothing():
    # 1e9 is within what the gate lets through, its square is beyond the range of exact sums.
    far = [update(0, 1e9, 0), update(1, 0, 1e9)]
    assert lr_after(fedexp(), *far) == pytest.approx(1.0)
    assert lr_after(fedexp(), *far, update(2, -1e9, -1e9)) > 1e9


def test_squares_do_not_depend_on_the_order_of_arrival_or_on_who_added_them():
    generator = torch_generator(3)
    numbers = torch.randn(9, generator=generator, dtype=torch.float64).exp() ** 4
    aggregator = fedexp().aggregators[SQUARED]
    whole, one, other = (aggregator.start(1, torch.float64) for _ in range(3))
    for k, number in enumerate(numbers):
        whole.add(k, number.reshape(1), k + 0.1)
    for k in reversed(range(9)):
        (one if k % 2 else other).add(k, numbers[k].reshape(1), k + 0.1)
    one.merge(other)
    assert torch.equal(one.finish(None, NOWHERE), whole.finish(None, NOWHERE))
    weights = torch.arange(9, dtype=torch.float64) + 0.1
    expected = (weights @ numbers / weights.sum()).reshape(1)
    torch.testing.assert_close(whole.finish(None, NOWHERE), expected, rtol=1e-14, atol=0)
    assert whole.finish(2.0, NOWHERE).item() == pytest.approx(float(weights @ numbers) / 2)


def test_the_square_of_an_update_is_taken_in_float64():
    derive = fedexp().derived[SQUARED]
    squared = derive({PARAMS: torch.full((1000,), 1e-3) + 1})
    assert (squared.dtype, tuple(squared.shape)) == (torch.float64, (1,))
    assert squared.item() == pytest.approx(1000 * float(torch.tensor(1.001)) ** 2, rel=1e-14)


def test_the_part_says_what_it_cannot_live_with():
    with pytest.raises(CompositionError) as raised:
        compose(fedexp(), fednova())
    assert str(raised.value) == (
        "fedexp and fednova cannot be combined: its step compares the lengths of updates with that "
        "of their mean, and these are no longer updates; leave one of them out"
    )
    robust = Part(name="robust", provides=frozenset({"set"}))
    with pytest.raises(CompositionError, match="fedexp and robust cannot be combined"):
        compose(fedexp(), robust)
    with pytest.raises(CompositionError) as raised:
        compose(fedavgm(), fedexp())
    assert str(raised.value) == (
        "fedexp cannot come after fedavgm: it reads the mean of the updates, which is changed by "
        "then; name it first"
    )
    assert compose(fedexp(), fedavgm()).name == "fedexp+fedavgm"
    with pytest.raises(CompositionError, match=r"feddyn.* cannot come after fedexp: it reads the"):
        compose(fedexp(), feddyn())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"epsilon": -1.0}, "epsilon = -1.0 must be a finite number of at least 0"),
        ({"reports": "first"}, "reports = 'first' must be one of 'average', 'last'"),
    ],
)
def test_a_knob_out_of_range_is_named_with_its_value(knobs, message):
    with pytest.raises(CompositionError) as raised:
        fedexp(**knobs)
    assert str(raised.value) == message
