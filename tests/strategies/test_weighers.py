"""Aggregation weights."""

import pytest

from roundel.core.errors import CompositionError
from roundel.strategies.weighers import BY_EXAMPLES, EQUAL, weigher
from tests.strategies.updates import update


def test_by_examples_weighs_their_number():
    assert BY_EXAMPLES.weigh(update(0, 1.0, examples=7)) == 7.0
    assert BY_EXAMPLES.denominator is None


def test_equal_weighs_everybody_1():
    assert EQUAL.weigh(update(0, 1.0, examples=7)) == 1.0
    assert EQUAL.denominator is None


def test_weighers_are_found_by_name():
    assert weigher("examples") is BY_EXAMPLES
    assert weigher("uniform") is EQUAL
    assert weigher(None) is None


def test_another_name_is_an_error_that_lists_the_choices():
    with pytest.raises(CompositionError) as raised:
        weigher("rank")  # type: ignore[arg-type]
    assert str(raised.value) == "weights = 'rank' must be one of 'examples', 'uniform'"
