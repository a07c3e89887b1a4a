"""How many updates a rule guards against."""

import pytest

from roundel.core.errors import CompositionError
from roundel.strategies.tolerance import Tolerance


def tolerance(f: int | None = None, fraction: float = 0.2, **more: bool) -> Tolerance:
    return Tolerance(rule="some_rule", f=f, fraction=fraction, least=lambda f: 2 * f + 3, **more)


def test_a_count_is_the_same_whoever_arrives():
    assert [tolerance(f=2).of(n) for n in (7, 8, 100)] == [2, 2, 2]


def test_a_fraction_is_of_those_that_arrived_and_rounded_down():
    assert [tolerance(fraction=0.3).of(n) for n in (7, 9, 10, 100)] == [2, 2, 3, 30]


def test_a_fraction_is_rounded_as_flower_and_scipy_round_it():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert tolerance(fraction=0.29).of(100) == 28


def test_a_fraction_that_comes_to_nobody_is_an_error_with_its_remedy():
    with pytest.raises(CompositionError) as raised:
        tolerance(fraction=0.1).of(9)
    assert str(raised.value) == (
        "some_rule would guard against nobody: fraction = 0.1 of the 9 updates that arrived is "
        "less than one; set f, or raise fraction, cohort.size or cohort.quorum"
    )


def test_nobody_is_fine_where_it_is_asked_for():
    assert tolerance(fraction=0.0).of(9) == 0
    assert tolerance(f=0).of(9) == 0
    assert tolerance(fraction=0.1, or_none=True).of(9) == 0


def test_too_few_updates_are_an_error_with_its_remedy():
    assert tolerance(f=2).of(7) == 2
    with pytest.raises(CompositionError) as raised:
        tolerance(f=2).of(6)
    assert str(raised.value) == (
        "some_rule with f = 2 needs at least 7 updates, and 6 arrived; lower f or fraction, or "
        "raise cohort.size or cohort.quorum"
    )


@pytest.mark.parametrize(
    ("f", "fraction", "message"),
    [
        (-1, 0.2, "f = -1 must be a whole number of at least 0"),
        (None, -0.1, r"fraction = -0\.1 must be at least 0 and below 0\.5, which is all that"),
        (None, 0.5, r"fraction = 0\.5 must be at least 0 and below 0\.5, which is all that"),
        (None, float("nan"), r"fraction = nan must be at least 0 and below 0\.5"),
    ],
)
def test_what_is_out_of_range_is_named(f, fraction, message):
    with pytest.raises(CompositionError, match=message):
        tolerance(f, fraction)


def test_it_says_what_was_asked_for():
    assert [str(tolerance(f=3)), str(tolerance())] == ["f=3", "fraction=0.2"]
