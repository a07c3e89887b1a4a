"""Strategies by name."""

from inspect import Parameter, signature

import pytest

from roundel.core.config import StrategyConfig
from roundel.core.errors import CompositionError, ConfigError
from roundel.strategies.compose import Strategy
from roundel.strategies.registry import FAMILIES, STRATEGIES, make_strategy, settled
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
        assert knob.kind in {Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
        assert knob.default is not Parameter.empty
        assert f"        {knob.name}: " in make.__doc__
    for section in ("Needs:", "Verified:", "Source:"):
        assert f"\n    {section}\n        " in make.__doc__


def test_every_strategy_belongs_to_one_family_and_is_called_as_its_constructor():
    members = [make for family in FAMILIES.values() for make in family]
    assert [make.__name__ for make in members] == list(STRATEGIES)
    assert len(set(STRATEGIES)) == len(members)


def test_parts_are_composed_in_their_order_each_with_its_knobs():
    strategy = make_strategy("fedavg", {}, ["scaffold", {"name": "prox", "mu": 0.5}])
    assert strategy.name == "fedavg+scaffold+prox(mu=0.5)"
    assert strategy.pull == 0.5


def test_a_settled_section_says_every_knob_of_every_part_and_settles_to_itself():
    config = StrategyConfig.model_validate({"parts": ["prox", {"name": "fedavgm", "momentum": 0}]})
    said = settled(config)
    assert said.parts == [
        {"name": "prox", "mu": 0.01},
        {"name": "fedavgm", "momentum": 0.0, "nesterov": False, "server_lr": 1.0},
    ]
    assert settled(said) == said
    assert said.title == "fedavg+prox+fedavgm"


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([3], ConfigError, "strategy.parts[0] = 3 is no part; write a name, or a table such as "),
        (
            ["prox", {"mu": 1}],
            ConfigError,
            "strategy.parts[1] = {'mu': 1} does not say its name; write a name, or a table such ",
        ),
        (["skaffold"], ConfigError, "strategy.parts[0].name = 'skaffold' is unknown; did you mean"),
        (
            ["prox", {"name": "prox", "nu": 1}],
            ConfigError,
            "strategy.parts[1].nu is not a knob of prox; choose from mu",
        ),
        (
            [{"name": "prox", "mu": -1}],
            CompositionError,
            "strategy.parts[0].mu = -1.0 must be a finite number of at least 0",
        ),
        (["scaffold", "scaffold"], CompositionError, "scaffold and scaffold both bring "),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_part_is_said_with_its_place(parts, error, message):
    with pytest.raises(error) as raised:
        make_strategy("fedavg", {}, parts)
    assert str(raised.value).startswith(message)


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
            (
                "strategy.name = 'xyz' is unknown; `roundel strategies` lists what there is, and "
                "one of your own is package.module:function"
            ),
        ),
        (
            "fedadam",
            {"beta1": 0.9},
            "strategy.beta1 is not a knob of fedadam; did you mean 'beta_1'?",
        ),
        (
            "scaffold",
            {"mu": 0.1},
            "strategy.mu is not a knob of scaffold; choose from option, server_lr",
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
