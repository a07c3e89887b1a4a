"""Strategies by name."""

from inspect import Parameter, signature

import pytest

from roundel.core.errors import CompositionError, ConfigError
from roundel.strategies.compose import Strategy
from roundel.strategies.registry import STRATEGIES, make_strategy
from tests.strategies.updates import points, update, vec


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_can_be_made_without_knobs_and_bears_its_name(name):
    strategy = make_strategy(name, {})
    assert isinstance(strategy, Strategy)
    assert strategy.name == name


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_constructor_takes_keywords_with_defaults_and_says_what_they_mean(name):
    make = STRATEGIES[name]
    assert make.__doc__ is not None
    for knob in signature(make).parameters.values():
        assert knob.kind is Parameter.KEYWORD_ONLY
        assert knob.default is not Parameter.empty
        assert f"        {knob.name}: " in make.__doc__
    assert "Source:" in make.__doc__


def test_knobs_reach_the_constructor():
    strategy = make_strategy("fedavg", {"server_lr": 0.5, "weights": "uniform"})
    each = [update(0, 4.0, examples=1), update(1, 8.0, examples=3)]
    assert points(strategy, vec(0), each) == [[3.0]]


def test_whole_numbers_do_for_floats():
    strategy = make_strategy("fedavgm", {"server_lr": 2, "momentum": 0})
    assert points(strategy, vec(0), [update(0, 4.0)]) == [[8.0]]


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("fedavgg", {}, "strategy.name = 'fedavgg' is unknown; did you mean 'fedavg'?"),
        (
            "xyz",
            {},
            f"strategy.name = 'xyz' is unknown; choose from {', '.join(STRATEGIES)}",
        ),
        (
            "fedadam",
            {"beta1": 0.9},
            "strategy.beta1 is not a knob of fedadam; did you mean 'beta_1'?",
        ),
        (
            "scaffold",
            {"mu": 0.1},
            "strategy.mu is not a knob of scaffold; choose from server_lr",
        ),
        (
            "fedprox",
            {"mu": "strong"},
            (
                "strategy.mu = 'strong' does not fit: Input should be a valid number, "
                "unable to parse string as a number"
            ),
        ),
        (
            "fedavg",
            {"weights": "rank"},
            "strategy.weights = 'rank' does not fit: Input should be 'examples' or 'uniform'",
        ),
        (
            "fedavgm",
            {"nesterov": "perhaps"},
            (
                "strategy.nesterov = 'perhaps' does not fit: Input should be a valid boolean, "
                "unable to interpret input"
            ),
        ),
        (
            "fedadam",
            {"bias_correction": "amsgrad"},
            (
                "strategy.bias_correction = 'amsgrad' does not fit: Input should be 'none', "
                "'kingma', 'textbook' or 'flower'"
            ),
        ),
        (
            "fedadagrad",
            {"v_init": [0.0]},
            "strategy.v_init = [0.0] does not fit: Input should be a valid number",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_with_its_remedy(name, knobs, message):
    with pytest.raises(ConfigError) as raised:
        make_strategy(name, knobs)
    assert str(raised.value) == message


def test_a_value_out_of_range_is_refused_by_the_algorithm():
    with pytest.raises(CompositionError, match=r"momentum = 1\.5 must be at least 0 and below 1"):
        make_strategy("fedavgm", {"momentum": 1.5})
