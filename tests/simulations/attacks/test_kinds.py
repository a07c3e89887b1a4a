"""Attacks by name, and their knobs."""

from inspect import Parameter, signature
from math import isnan
from typing import Any

import pytest
import torch

from roundel.core.errors import ConfigError
from roundel.simulations.attacks.kinds import ATTACKS, settled_knobs
from tests.strategies.updates import vec

ROWS = torch.stack([vec(0, 0), vec(4, 2)])
TOGETHER = ["alie", "ipm", "min_max", "min_sum"]


def made(kind: str, **knobs: Any) -> Any:
    return ATTACKS[kind](**settled_knobs(kind, knobs))


@pytest.mark.parametrize("kind", ATTACKS)
def test_each_says_where_it_comes_from_and_what_its_knobs_mean(kind):
    make = ATTACKS[kind]
    assert make.__doc__ is not None
    assert "Source:" in make.__doc__
    for knob in signature(make).parameters.values():
        assert knob.kind is Parameter.KEYWORD_ONLY
        assert knob.default is not Parameter.empty
        assert f"        {knob.name}: " in make.__doc__


@pytest.mark.parametrize("kind", ATTACKS)
def test_each_bears_its_name_and_does_one_thing(kind):
    attack = made(kind, **({"classes": 10} if kind == "label_flip" else {}))
    assert attack.name == kind
    does = [attack.relabel, attack.alone, attack.together]
    assert sum(one is not None for one in does) == 1


def test_a_client_that_flips_signs_needs_nobody_unless_it_flips_the_mean():
    own = made("sign_flip", scale=2.0)
    assert own.alone(vec(1, -2), 0).tolist() == [-2, 4]
    colluding = made("sign_flip", scale=2.0, knowledge="all")
    assert colluding.omniscient
    assert colluding.together(ROWS, 3, 1).tolist() == [-4, -2]


def test_noise_has_the_mean_and_the_spread_that_it_is_told():
    noise = made("gaussian", mean=3.0, std=1e-9).alone(vec(7, 7), 1)
    torch.testing.assert_close(noise, vec(3, 3))
    added = made("gaussian", mean=3.0, std=1e-9, mode="add").alone(vec(7, 7), 1)
    torch.testing.assert_close(added, vec(10, 10))


def test_labels_are_flipped_among_the_classes():
    assert made("label_flip", classes=3).relabel(torch.tensor([0, 1, 2])).tolist() == [2, 1, 0]


def test_not_a_number_is_sent_everywhere():
    assert all(isnan(x) for x in made("nan").alone(vec(1, 2), 0).tolist())


def test_the_automatic_z_follows_from_the_counts_of_the_round():
    attack = made("alie", z="auto")
    torch.testing.assert_close(
        attack.together(ROWS, 50, 24), vec(2 - 2 * 1.42607687, 1 - 1.42607687), atol=1e-7, rtol=0
    )
    assert attack.together(ROWS, 6, 2).tolist() == [2, 1]


def test_conventions_of_a_little_is_enough_have_names():
    assert made("alie").together(ROWS, 3, 1).tolist() == [-1, -0.5]
    assert made("alie", z=1, sign="plus").together(ROWS, 3, 1).tolist() == [4, 2]
    sent = made("alie", z=1, ddof=1).together(ROWS, 3, 1)
    torch.testing.assert_close(sent, vec(2 - 8**0.5, 1 - 2**0.5))


def test_the_mean_is_turned_around_as_far_as_epsilon_says():
    assert made("ipm").together(ROWS, 3, 1).tolist() == [-1, -0.5]
    assert made("ipm", epsilon=2).together(ROWS, 3, 1).tolist() == [-4, -2]


def test_outliers_by_distance_are_avoided_in_each_direction():
    rows = vec(0, 0, 3).unsqueeze(1)
    torch.testing.assert_close(made("min_max", direction="sign").together(rows, 4, 1), vec(0))
    torch.testing.assert_close(made("min_sum", direction="unit").together(rows, 4, 1), vec(-1))


@pytest.mark.parametrize("kind", TOGETHER)
def test_those_who_collude_look_at_the_honest_or_at_each_other(kind):
    assert made(kind).omniscient
    assert not made(kind, knowledge="own").omniscient


@pytest.mark.parametrize(
    ("kind", "knobs", "message"),
    [
        ("sign-flip", {}, "attack.kind = 'sign-flip' is unknown; did you mean 'sign_flip'?"),
        ("ipm", {"z": 1.5}, "attack.z is not a knob of ipm; choose from epsilon, knowledge"),
        ("nan", {"scale": 2}, "attack.scale is not a knob of nan; it has none"),
        ("gaussian", {"std": -1}, "attack.std = -1 does not fit: Input should be greater than 0"),
        ("min_max", {"direction": "up"}, "attack.direction = 'up' does not fit: Input should be"),
        ("alie", {"z": float("inf")}, "attack.z = inf does not fit: Input should be a finite"),
        ("alie", {"ddof": 2}, "attack.ddof = 2 does not fit: Input should be 0 or 1"),
        ("label_flip", {"classes": 1}, "attack.classes = 1 does not fit: Input should be greater"),
    ],
)
def test_what_means_nothing_is_refused_in_one_sentence(kind, knobs, message):
    with pytest.raises(ConfigError) as caught:
        settled_knobs(kind, knobs)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_labels_cannot_be_flipped_among_an_unknown_number_of_classes():
    with pytest.raises(ConfigError, match=r"set attack\.classes$"):
        made("label_flip")
